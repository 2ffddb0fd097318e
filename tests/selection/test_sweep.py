"""A sweep against the selections themselves: each is what `mapjob rank` would publish, and counts are theirs."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from mapjob.cli.app import app
from mapjob.config.load import parse_config
from mapjob.errors import ConfigError, IncompleteError
from mapjob.job.rank import sweep_job
from mapjob.job.run import rank_job
from mapjob.ranking.compare import CALIBRATED, choices
from mapjob.store.run_folder import path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run

METRICS = ("map", "explicit", "random")
WANTED = choices(METRICS, [0.25, 2.5, CALIBRATED], [0.1, 0.5])


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("swept")
    corpus = write_corpus(folder / "in", make_pairs(120))
    models = make_policy(folder / "policy"), make_reward(folder / "reward")
    tree = config_tree(corpus, folder / "out", *models, execution={"rows_per_unit": 50})
    tree["input"]["columns"] = {"group": "source"}
    run(parse_config(tree))
    return tree


@pytest.fixture(scope="module")
def swept(tree):
    return sweep_job(parse_config(tree), WANTED)[0]


def published(tree: dict[str, Any], metric: str, alpha: Any, ratio: float) -> list[dict[str, Any]]:
    selection = {"metric": metric, "keep": {"ratio": ratio}}
    if alpha == CALIBRATED:
        selection["scale"] = "calibrated"
    elif alpha is not None:
        selection["alpha"] = alpha
    manifest = rank_job(parse_config({**tree, "selection": selection}))
    return pq.read_table(f"{path_of(manifest)}/selected").to_pylist()


def test_every_combination_once():
    assert [(c.metric, c.alpha) for c in WANTED if c.ratio == 0.5] == [
        ("map", 0.25),
        ("map", 2.5),
        ("map", CALIBRATED),
        ("explicit", None),
        ("random", None),
    ]


def test_every_outcome_is_that_of_the_published_selection(tree, swept):
    assert not swept.refused
    chosen = []
    for outcome in swept.outcomes:
        choice, profile = outcome.choice, outcome.profile
        rows = published(tree, choice.metric, choice.alpha, choice.ratio)
        chosen.append({row["pair_id"] for row in rows})
        assert profile.num_pairs == len(rows) == int(choice.ratio * 120)
        assert profile.label_disagreement == pytest.approx(np.mean([row["reward_margin"] < 0 for row in rows]))
        assert profile.chosen_num_tokens == pytest.approx(np.mean([row["chosen_num_tokens"] for row in rows]))
        assert profile.rejected_num_tokens == pytest.approx(np.mean([row["rejected_num_tokens"] for row in rows]))
        assert profile.reward_margin[1] == pytest.approx(np.median([row["reward_margin"] for row in rows]))
        assert profile.implicit_margin[1] == pytest.approx(np.median([row["implicit_margin"] for row in rows]))
        shares = {name: number / len(rows) for name, number in Counter(row["source"] for row in rows).items()}
        assert {name: share for name, share in profile.groups.items() if share} == pytest.approx(shares)
        drift = sum(abs(shares.get(f"group {i}", 0) - 1 / 3) for i in range(3)) / 2
        assert outcome.group_drift == pytest.approx(drift)
    for i, one in enumerate(chosen):
        for j, other in enumerate(chosen):
            assert swept.jaccard[i, j] == pytest.approx(len(one & other) / len(one | other))


def test_all_ranked_pairs_stand_beside_them(swept):
    assert swept.everything.num_pairs == 120
    assert swept.everything.groups == pytest.approx({f"group {i}": 1 / 3 for i in range(3)})


def test_a_choice_without_a_meaning_is_left_out_and_named(tree):
    without = choices(["ensemble_worst"], [], [0.1, 0.5])
    swept, _ = sweep_job(parse_config(tree), [*WANTED, *without])
    assert list(swept.refused) == ["ensemble_worst"]
    assert "there is one" in swept.refused["ensemble_worst"]
    assert len(swept.outcomes) == len(WANTED)
    with pytest.raises(ConfigError, match="no choice"):
        sweep_job(parse_config(tree), without)


def test_metrics_that_are_not_scored_yet_say_so(tree):
    with pytest.raises(IncompleteError, match="edit_distance"):
        sweep_job(parse_config(tree), choices(["dcrm"], [1.0], [0.4]))


def test_the_command(tree, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    arguments = ["sweep", str(file), "--alpha", "1,calibrated", "--ratio", "0.4", "--metric", "map,explicit", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    data = json.loads(lines[-1])
    assert [(row["metric"], row["alpha"]) for row in data["selections"]] == [
        ("map", 1.0),
        ("map", CALIBRATED),
        ("explicit", None),
    ]
    assert lines[1].startswith("all ranked")
    folder = Path(data["sweep_path"])
    assert json.loads((folder / "sweep.json").read_text())["jaccard"] == data["jaccard"]
    svg = (folder / "overlap.svg").read_text()
    assert "<svg" in svg
    assert "map calibrated" in svg
    assert "<script" not in svg
    again = CliRunner().invoke(app, arguments)
    assert again.stdout == result.stdout
    assert sum(file.is_file() for file in folder.iterdir()) == 2


@pytest.mark.parametrize(
    ("option", "value"), [("--alpha", "high"), ("--ratio", "0"), ("--ratio", "1.5"), ("--metric", "best")]
)
def test_a_wrong_option_is_named(tree, tmp_path, option, value):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    result = CliRunner().invoke(app, ["sweep", str(file), option, value])
    assert isinstance(result.exception, ConfigError)
    assert result.exception.where == option

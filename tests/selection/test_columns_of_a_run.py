"""What a run writes beside the texts: further metrics, signals, several reward models, held-out pairs, goals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from mapjob.config.load import parse_config
from mapjob.errors import IncompleteError
from mapjob.job.run import rank_job
from mapjob.report.pair import pair_text, selected_pair
from mapjob.store.run_folder import FinishedRun, path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.golden import plain_metrics as plain
from tests.without_ray import run

EVERYTHING = {
    "metrics": ["bees", "dcrm", "ifd_margin", "difficulty_gap", "beta_dpo_weight", "ensemble_worst", "random"],
    "signals": {
        "amapo_margin": {},
        "alpha_dpo_margin": {"gamma_beta_ratio": 0.4},
        "gamma_po_margin": {},
        "madpo_weight": {},
        "bpo_margin": {},
        "repo_loss": {},
        "mmpo_target": {},
        "wpo_weight": {},
    },
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    paths = {"policy": make_policy(folder / "policy"), "reference": make_policy(folder / "reference", seed=5)}
    many = {"one": make_reward(folder / "one"), "two": make_reward(folder / "two", "mistral", seed=9)}
    made = {name: {"path": str(path), "dtype": "float32"} for name, path in paths.items()}
    return {**made, "reward": {name: {"path": str(path), "dtype": "float32"} for name, path in many.items()}}


@pytest.fixture
def tree(models, tmp_path) -> dict[str, Any]:
    corpus = write_corpus(tmp_path / "in", make_pairs(60))
    tree = config_tree(corpus, tmp_path / "out", Path(), Path(), execution={"rows_per_unit": 25})
    return {**tree, "models": models, "selection": {"keep": {"ratio": 1.0}}}


def rows_of(manifest: dict[str, Any], folder: str = "selected") -> list[dict[str, Any]]:
    return pq.read_table(f"{path_of(manifest)}/{folder}").to_pylist()


def test_everything_at_once(tree):
    manifest = run(parse_config({**tree, "selection": {**tree["selection"], **EVERYTHING}}))
    rows = rows_of(manifest)
    assert len(rows) == 60
    for name, expected in {
        "dcrm": [plain.dcrm(row, 1.0) for row in rows],
        "ifd_margin": [plain.ifd_margin(row) for row in rows],
        "difficulty_gap": [-plain.g(row) for row in rows],
        "wpo_weight": [plain.wpo(row) for row in rows],
        "bpo_margin": [plain.bpo(row, 0.1, 0.3)[0] for row in rows],
        "mmpo_target": [plain.mmpo(row, 1.0)[0] for row in rows],
    }.items():
        assert [row[name] for row in rows] == pytest.approx(expected, rel=1e-9), name
    assert {type(row["edit_distance"]) for row in rows} == {int}
    loaded = load_dataset(path_of(manifest), split="train")
    assert loaded.num_rows == 60
    assert not {"margin", "label"} & set(loaded.column_names)


def test_of_several_reward_models_the_margin_is_their_mean_in_deviations(tree):
    manifest = run(parse_config(tree))
    rows = rows_of(manifest)
    margins = []
    for name in ("one", "two"):
        rewards = [row[f"{side}_reward.{name}"] for side in ("chosen", "rejected") for row in rows]
        dev = plain.deviation(rewards)
        assert manifest["statistics"]["rewards"][name]["std"] == pytest.approx(dev, rel=1e-12)
        margins.append([(row[f"chosen_reward.{name}"] - row[f"rejected_reward.{name}"]) / dev for row in rows])
    expected = [plain.mean(both) for both in zip(*margins)]
    assert [row["reward_margin"] for row in rows] == pytest.approx(expected, rel=1e-9)
    assert [row["chosen_reward"] - row["rejected_reward"] for row in rows] == pytest.approx(expected, rel=1e-9)
    card = (Path(path_of(manifest)) / "README.md").read_text()
    assert "| reward.one |" in card
    assert "| reward.two |" in card


def test_what_a_later_selection_needs_is_scored_and_nothing_again(tree):
    first = run(parse_config(tree))
    more = {**tree, "selection": {**tree["selection"], "metric": "dcrm", "signals": {"wpo_weight": {}}}}
    with pytest.raises(IncompleteError, match="edit_distance"):
        rank_job(parse_config(more))
    second = run(parse_config(more))
    assert first["fingerprints"].items() < second["fingerprints"].items()
    assert second["spent"]["tokens"].keys() == {"collision"}
    third = rank_job(parse_config({**more, "selection": {**more["selection"], "metrics": ["ensemble_mean"]}}))
    assert third["fingerprints"] == second["fingerprints"]


def test_held_out_prompts_are_a_data_set_of_their_own(tree):
    manifest = run(parse_config({**tree, "selection": {"held_out": 0.3, "keep": {"ratio": 0.5}}}))
    counts = manifest["counts"]
    selected, apart = rows_of(manifest), rows_of(manifest, "held_out")
    assert counts["ranked"] + counts["held_out"] == counts["rows"] == 60
    assert len(apart) == counts["held_out"] > 5
    assert len(selected) == int(0.5 * counts["ranked"])
    assert not {json.dumps(row["prompt"]) for row in selected} & {json.dumps(row["prompt"]) for row in apart}
    assert "rank" not in apart[0]
    scale = manifest["statistics"]["scale"]
    for row in apart:
        expected = scale["reward"] * abs(plain.h(row)) - scale["implicit"] * abs(plain.d(row))
        assert row["map_score"] == pytest.approx(expected, rel=1e-9)
    assert load_dataset(path_of(manifest), "held_out", split="test").num_rows == len(apart)
    assert load_dataset(path_of(manifest), split="train").num_rows == len(selected)


@pytest.mark.parametrize("system_role", [True, False])
def test_goals_make_two_rows_of_a_pair(tree, system_role):
    plain_rows = {row["pair_id"]: row for row in rows_of(run(parse_config(tree)))}
    signals = {"reward_goals": {"system_role": system_role}}
    manifest = run(parse_config({**tree, "selection": {**tree["selection"], "signals": signals}}))
    rows = rows_of(manifest)
    row = selected_pair(FinishedRun.of(manifest), rows[0]["pair_id"])
    assert "reward margin " in pair_text(manifest, row or {}, is_selected=True)
    agreeing = [row for row in plain_rows.values() if row["reward_margin"] > 0]
    assert len(rows) == 2 * len(agreeing)
    rewards = [row[f"{side}_reward"] for row in plain_rows.values() for side in ("chosen", "rejected")]
    low, high = np.quantile(rewards, [0.01, 0.99]).tolist()
    for chosen, rejected in zip(rows[::2], rows[1::2]):
        own = plain_rows[chosen["pair_id"]]
        assert (chosen["goal_swapped"], rejected["goal_swapped"]) == (False, True)
        assert chosen["chosen"] == rejected["rejected"] == own["chosen"]
        assert chosen["chosen_reward"] == rejected["rejected_reward"] == own["chosen_reward"]
        assert rejected["reward_margin"] == -own["reward_margin"]
        for row, reward in ((chosen, own["chosen_reward"]), (rejected, own["rejected_reward"])):
            goal = min(max(1 + 9 * (reward - low) / (high - low), 1), 10)
            assert row["reward_goal"] == pytest.approx(goal, rel=1e-9)
            first = row["prompt"][0]
            assert first["role"] == ("system" if system_role else "user")
            assert f"rated {goal:.1f} on a scale" in first["content"]
            assert "chosen_logps" not in row, "scored without the goal"
    assert np.isfinite([row["reward_goal"] for row in rows]).all()

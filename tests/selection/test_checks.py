"""Measures of a run, the checks that decide by them whether it is promoted, and what promotion leaves alone."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import mapjob as api
from mapjob.config.load import parse_config
from mapjob.config.run import Checks
from mapjob.errors import ConfigError
from mapjob.job.run import rank_job
from mapjob.selection.checks import judge
from mapjob.store.run_folder import open_run, path_of, promoted_id
from tests.cli.conftest import Mapjob, here  # noqa: F401
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run, without_ray

FAR = 3.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return make_policy(folder / "policy"), make_reward(folder / "reward")


@pytest.fixture
def tree(models: tuple[Path, Path], tmp_path: Path) -> Iterator[dict[str, Any]]:
    rows = make_pairs(60)
    for number in range(0, 60, 5):
        rows[number]["prompt"] = "the same prompt"
        rows[number]["source"] = None
    rows[7]["rejected"] = rows[7]["chosen"]
    corpus = write_corpus(tmp_path / "corpus", rows)
    with without_ray():
        yield config_tree(corpus, tmp_path / "out", *models, input={"columns": {"group": "source"}})


def rows_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return pq.read_table(Path(path_of(manifest)) / "selected").to_pylist()


def prompt_of(row: dict[str, Any]) -> str:
    return json.dumps(row["prompt"])


def test_measures_are_what_a_plain_count_finds(tree: dict[str, Any]) -> None:
    first = run(parse_config(tree))
    manifest = run(parse_config({**tree, "selection": {"alpha": 0.2, "keep": {"ratio": 0.5}}}))
    measures, rows, scores = manifest["measures"], rows_of(manifest), api.load_scores(path_of(manifest)).to_pylist()
    assert len(scores) == 59
    assert (measures["dropped"], measures["broken"]) == (1 / 60, 0.0)
    assert measures["contradicted"] == sum(row["reward_margin"] < 0 for row in scores) / 59
    groups = Counter(row["source"] for row in rows if row["source"] is not None)
    assert measures["groups"] == {name: n / len(rows) for name, n in groups.most_common()}
    assert measures["group_share"] == max(groups.values()) / len(rows)
    assert groups[measures["largest_group"]] == max(groups.values())
    assert measures["prompt_share"] == Counter(map(prompt_of, rows)).most_common(1)[0][1] / len(rows)
    means = [np.mean([row[f"{side}_num_tokens"] for row in rows]) for side in ("chosen", "rejected")]
    assert [measures["chosen_num_tokens"], measures["rejected_num_tokens"]] == pytest.approx(means, rel=1e-12)
    assert measures["length_ratio"] == pytest.approx(means[0] / means[1], rel=1e-12)
    margins = [row["reward_margin"] for row in scores]
    low, high = np.quantile(margins, [0.25, 0.75])
    reach = FAR * (high - low)
    far = [not low - reach <= row["reward_margin"] <= high + reach for row in rows]
    assert measures["reward_outliers"] == np.mean(far)
    before = {row["pair_id"] for row in rows_of(first)}
    assert measures["overlap_with"] == first["run_id"]
    assert measures["overlap"] == len(before & {row["pair_id"] for row in rows}) / len(before)
    assert first["measures"]["overlap"] is None
    stored = json.loads((Path(path_of(manifest)) / "manifest.json").read_text())
    assert stored["measures"] == measures


def test_groups_whose_long_names_begin_alike_are_several(tree: dict[str, Any]) -> None:
    file = Path(tree["input"]["path"]) / "part-000.parquet"
    table = pq.read_table(file)
    names = [f"https://example.org/{'x' * 100}/{'b' if i % 4 else 'a'}" for i in range(len(table))]
    at = table.column_names.index("source")
    pq.write_table(table.set_column(at, "source", [names]), file)
    measures = run(parse_config({**tree, "selection": {"keep": {"ratio": 1.0}}}))["measures"]
    shares = [share for name, share in measures["groups"].items() if name.startswith("https:")]
    assert len(shares) == 2
    assert measures["group_share"] == max(shares)
    assert max(map(len, measures["groups"])) == 100


@pytest.mark.parametrize("policy", ["keep", "drop", "relabel"])
def test_contradicted_labels_are_counted_whatever_is_done_with_them(tree: dict[str, Any], policy: str) -> None:
    scores = api.load_scores(path_of(run(parse_config(tree)))).to_pylist()
    other = rank_job(parse_config({**tree, "selection": {"on_disagreement": policy}}))
    assert other["measures"]["contradicted"] == sum(row["reward_margin"] < 0 for row in scores) / len(scores) > 0


def test_an_empty_selection_has_no_shares_and_overlaps_with_nothing(tree: dict[str, Any]) -> None:
    first = run(parse_config(tree))
    checks = {"group_share": 0.1, "prompt_share": 0.1, "length_ratio": 0.1, "reward_outliers": 0.0, "overlap": 0.5}
    empty = run(parse_config({**tree, "selection": {"keep": {"count": 0}}, "checks": checks}))
    assert empty["measures"]["overlap"] == 0.0
    assert [check["check"] for check in empty["checks"]] == ["overlap"]
    assert promoted_id(tree["output"]["path"]) == first["run_id"]


MEASURES = {name: 0.5 for name in Checks.model_fields} | {"largest_group": "web", "overlap_with": "map-1"}


@pytest.mark.parametrize("check", list(Checks.model_fields))
def test_a_limit_itself_passes_and_what_is_beyond_fails(check: str) -> None:
    step = -1e-9 if check == "overlap" else 1e-9
    assert judge(MEASURES, Checks(**{check: 0.5})) == []
    assert judge(MEASURES | {check: 0.5 - step}, Checks(**{check: 0.5})) == []
    (failed,) = judge(MEASURES | {check: 0.5 + step}, Checks(**{check: 0.5}))
    assert (failed["check"], failed["value"], failed["limit"]) == (check, 0.5 + step, 0.5)
    assert failed["why"].startswith(check)


def test_a_limit_of_0_is_a_limit_and_what_is_not_there_passes() -> None:
    assert [f["check"] for f in judge(MEASURES, Checks(dropped=0, overlap=0))] == ["dropped"]
    nothing = dict.fromkeys(MEASURES)
    assert judge(nothing, Checks(**{name: 0.5 for name in Checks.model_fields})) == []
    (failed,) = judge(nothing | {"overlap_with": "map-1"}, Checks(overlap=0.5))
    assert failed["why"] == "overlap with map-1 could not be measured, at least 50%"


def test_a_check_that_fails_ends_with_5_and_leaves_latest(here: Mapjob, tree: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    import yaml

    file, out = tmp_path / "run.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(tree))
    done = here("run", file, "--json", "--name", "nightly")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout.splitlines()[-1])
    assert (first["promoted"], first["checks"], first["exit_code"]) == (True, [], 0)

    other = ["--set", "selection.alpha=2.5", "--name", "nightly", "--note", "a try"]
    done = here("run", file, *other, "--set", "checks={length_ratio: 0.01, overlap: 0.1}", "--json")
    assert done.returncode == 5
    refused = json.loads(done.stdout.splitlines()[-1])
    assert (refused["promoted"], refused["exit_code"]) == (False, 5)
    (check,) = refused["checks"]
    assert check["why"] in done.stderr
    assert "length_ratio is" in check["why"]
    stored = json.loads((Path(refused["run_path"]) / "manifest.json").read_text())
    assert (stored["checks"], stored["name"], stored["note"]) == ([check], "nightly", "a try")
    assert promoted_id(str(out)) == first["run_id"]

    assert here("promote", out, refused["run_id"]).stdout.endswith(f"\nbefore: {first['run_id']}\n")
    assert here("promote", out, refused["run_id"]).stdout.startswith(f"already promoted: {refused['run_id']} ")
    overruled = here("run", file, *other, "--set", "checks={length_ratio: 0.01}", "--json")
    assert overruled.returncode == 0, "somebody promoted it: a scheduler goes on"
    assert check["why"] in overruled.stderr
    assert json.loads(overruled.stdout.splitlines()[-1])["exit_code"] == 0
    assert here("promote", out, first["run_id"]).returncode == 0

    again = here("run", file, *other, "--set", "checks={length_ratio: 100}", "--name", "renamed", "--json")
    assert again.returncode == 0, again.stderr
    assert "a finished run keeps its first name: nightly, not renamed" in again.stderr
    judged = json.loads(again.stdout.splitlines()[-1])
    assert (judged["run_id"], judged["promoted"], judged["checks"]) == (refused["run_id"], True, [])
    assert promoted_id(str(out)) == refused["run_id"]

    assert here("promote", out, first["run_id"]).returncode == 0
    assert promoted_id(str(out)) == first["run_id"]
    assert here("promote", out, "mpa-1").returncode == 2
    assert here("rank", out, "--set", "selection.alpha=3", "--promote", "--set", "checks.dropped=0").returncode == 5
    assert promoted_id(str(out)) == first["run_id"]


def test_an_afternoon_of_experiments_moves_nothing(here: Mapjob, tree: dict[str, Any]) -> None:  # noqa: F811
    """Between two nights somebody tries other settings; who takes the output folder gets last night's run."""
    out = tree["output"]["path"]
    night = run(parse_config({**tree, "name": "nightly"}))
    latest = (Path(out) / "latest.json").read_bytes()
    for alpha in (0.25, 2.5, 4):
        tried = here("rank", out, "--set", f"selection.alpha={alpha}", "--set", "checks.dropped=0", "--json")
        assert tried.returncode == 0, tried.stderr
        result = json.loads(tried.stdout.splitlines()[-1])
        assert result["run_id"] != night["run_id"]
        assert (result["promoted"], result["name"]) == (False, None)
        assert (Path(out) / "latest.json").read_bytes() == latest
        assert open_run(out).manifest["run_id"] == night["run_id"]
    shown = here("show", out, "1")
    assert f"{night['run_id']} (nightly, finished " in shown.stderr
    assert here("diff", out, result["run_path"]).returncode == 0
    promoted = here("rank", out, "--set", "selection.alpha=4", "--promote", "--json")
    assert json.loads(promoted.stdout.splitlines()[-1])["promoted"] is True
    assert promoted_id(out) == result["run_id"]
    assert run(parse_config({**tree, "name": "nightly"}))["promoted"] is True
    assert (Path(out) / "latest.json").read_bytes() == latest


def test_a_promoted_selection_that_is_damaged_or_gone_fails_no_night(
    tree: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    first = run(parse_config(tree))
    file = next((Path(path_of(first)) / "selected").iterdir())
    file.write_bytes(file.read_bytes()[:-20])
    damaged = {**tree, "selection": {"alpha": 2.0}, "checks": {"overlap": 0.1}}
    second = run(parse_config(damaged))
    assert "the selection of the promoted run cannot be read" in caplog.text
    assert (second["measures"]["overlap"], second["measures"]["overlap_with"]) == (None, first["run_id"])
    assert [check["check"] for check in second["checks"]] == ["overlap"]
    shutil.rmtree(path_of(first))
    gone = run(parse_config({**damaged, "selection": {"alpha": 4.0}}))
    assert f"the promoted run {first['run_id']} is gone" in caplog.text
    assert [check["check"] for check in gone["checks"]] == ["overlap"]
    (Path(tree["output"]["path"]) / "latest.json").write_text('{"run_id"')  # what no writer of ours leaves
    third = run(parse_config({**damaged, "selection": {"alpha": 3.0}}))
    assert (third["measures"]["overlap_with"], third["promoted"]) == (None, True)


@pytest.mark.parametrize("limit", [True, "much", 1.5, -0.1])
def test_a_limit_is_a_share(tree: dict[str, Any], limit: Any) -> None:
    with pytest.raises(ConfigError, match=r"checks\.contradicted"):
        parse_config({**tree, "checks": {"contradicted": limit}})

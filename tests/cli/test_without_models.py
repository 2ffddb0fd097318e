"""rank, sweep, show and load_scores on an output folder once the models' folders are gone: the same as before."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import mapjob as api
from mapjob.config.load import parse_config
from mapjob.store.run_folder import path_of
from tests.cli.conftest import Mapjob
from tests.cli.test_commands import last_json
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run

ALPHA = ("--set", "selection.alpha=2.5")
SANITIZE = {"scoring": {"control_tokens": "sanitize", "max_length": 512}}
GOALS = {"selection": {"signals": {"reward_goals": {"system_role": False}}}}
DPO = {"selection": {"implicit": "dpo", "held_out": 0.2}}
RAW = {"input": {"plain_text": "raw"}}
TIMES = ("spent", "finished_at")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run file of a corpus in which a text holds a control token; the models are in one folder."""
    folder = tmp_path_factory.mktemp("gone")
    rows = [
        {**row, "chosen": f"{row['chosen']} <|end|>"} if i % 9 == 0 else row for i, row in enumerate(make_pairs(40))
    ]
    corpus = write_corpus(folder / "corpus", rows)
    models = make_policy(folder / "models" / "policy"), make_reward(folder / "models" / "reward")
    tree = config_tree(corpus, folder / "out", *models, scoring={"control_tokens": "keep"})
    tree["models"]["reference"] = {
        "path": str(make_policy(folder / "models" / "reference", seed=2)),
        "dtype": "float32",
    }
    tree["execution"]["rows_per_unit"] = 20
    return {**tree, "input": {"path": str(corpus), "columns": {"group": "source"}}}


@contextmanager
def without_models(tree: dict[str, Any]) -> Iterator[None]:
    """Inside, the folders of all models are somewhere else."""
    folder = Path(tree["models"]["policy"]["path"]).parent
    folder.rename(folder.with_name("elsewhere"))
    try:
        yield
    finally:
        folder.with_name("elsewhere").rename(folder)


def with_more(tree: dict[str, Any], output: Path, more: dict[str, Any]) -> dict[str, Any]:
    """The run file with another output, and with some of it changed."""
    tree = {**tree, "output": {"path": str(output)}}
    for name, section in more.items():
        tree[name] = {**tree.get(name, {}), **section} if isinstance(section, dict) else section
    return tree


def written(tree: dict[str, Any], folder: Path) -> Path:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def files_of(run_path: str) -> dict[str, Any]:
    """Every file of a run: its bytes, or its numbers without the times that it took."""
    files: dict[str, Any] = {}
    for path in Path(run_path).rglob("*"):
        name = path.relative_to(run_path).as_posix()
        if path.suffix == ".json":
            files[name] = {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}
        elif path.is_file() and name != "report.html":  # which shows the times
            files[name] = path.read_bytes()
    return files


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"output_format": "openrlhf", **DPO},
        {"output_format": "llama_factory", **RAW},
        {"output_format": "columns", **SANITIZE},
        {"output_format": "trl", **SANITIZE},
        {"output_format": "llama_factory", **SANITIZE, **GOALS},
        {"output_format": "trl", **GOALS, **RAW},
    ],
    ids=lambda more: " ".join([more.get("output_format", "default"), *sorted(more.keys() - {"output_format"})]),
)
def test_the_same_files_without_the_models(here: Mapjob, world, tmp_path: Path, more: dict[str, Any]) -> None:
    tree = with_more(world, tmp_path / "out", more)
    first = run(parse_config(tree))
    scores = api.load_scores(path_of(first))
    ranked = last_json(here("rank", written(tree, tmp_path), *ALPHA, "--json"))
    expected = files_of(ranked["run_path"])
    assert [name for name in expected if name.startswith("selected/")]
    shutil.rmtree(ranked["run_path"])
    with without_models(tree):
        assert api.load_scores(path_of(first)).equals(scores)
        again = last_json(here("rank", path_of(first), *ALPHA, "--json"))
        assert again["run_path"] == ranked["run_path"]
        assert files_of(again["run_path"]) == expected


def test_without_an_override_it_is_the_run_itself(here: Mapjob, world, tmp_path: Path) -> None:
    tree = with_more(world, tmp_path / "out", {})
    first = run(parse_config(tree))
    with without_models(tree):
        for folder in (tmp_path / "out", path_of(first)):
            same = here("rank", folder, "--json")
            assert last_json(same)["run_id"] == first["run_id"]
            assert f"with the settings and scores of {path_of(first)}" in same.stderr
        (tmp_path / "out").rename(tmp_path / "moved")
        moved = tmp_path / "moved" / "runs" / first["run_id"]
        assert last_json(here("rank", tmp_path / "moved", "--json"))["run_path"] == str(moved)
        assert here("show", tmp_path / "moved", "40").returncode == 0
        assert api.rank(str(tmp_path / "moved"), overrides=["selection.keep={count: 3}"])["counts"]["selected"] == 3
        assert not (tmp_path / "out").exists()


def test_sweep_and_show_print_the_same(mapjob: Mapjob, here: Mapjob, world, tmp_path: Path) -> None:
    tree = with_more(world, tmp_path / "out", {})
    first = run(parse_config(tree))
    sweep = ("--metric", "map,explicit,bees", "--ratio", "0.1,0.5", "--json")
    swept = here("sweep", written(tree, tmp_path), *sweep)
    folder = Path(last_json(swept)["sweep_path"])
    expected = {file.name: file.read_bytes() for file in folder.iterdir()}
    shown = {rank: here("show", path_of(first), rank).stdout for rank in ("1", "40")}
    assert "(not selected)" in shown["40"]
    shutil.rmtree(folder)
    with without_models(tree):
        again = mapjob("sweep", tmp_path / "out", *sweep)
        assert again.returncode == 0, again.stderr
        assert again.stdout == swept.stdout
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == expected
        assert {rank: here("show", tmp_path / "out", rank).stdout for rank in shown} == shown


PROGRAM = """
import sys
from mapjob.cli.app import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
    print(*sorted({"ray", "torch", "transformers"} & set(sys.modules)))
"""


@pytest.mark.parametrize("command", ["rank", "sweep", "status", "show"])
def test_what_loads_no_model_imports_nothing_slow(world, tmp_path: Path, command: str) -> None:
    """Also of a corpus with times to the nanosecond, as pandas writes them."""
    corpus = shutil.copytree(world["input"]["path"], tmp_path / "corpus")
    for file in corpus.glob("*.parquet"):
        table = pq.read_table(file)
        times = pa.array(range(1, len(table) + 1), pa.timestamp("ns", "UTC"))
        pq.write_table(table.append_column("written_at", times), file)
    tree = with_more(world, tmp_path / "out", {"output_format": "openrlhf", "input": {"path": str(corpus)}})
    run(parse_config(tree))
    more = {"rank": ALPHA, "show": ("40",)}.get(command, ())
    words = [sys.executable, "-c", PROGRAM, command, str(tmp_path / "out"), *more]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2:] == ["", ""], done.stdout


@pytest.mark.parametrize(
    ("override", "code", "named"),
    [
        ("selection.metric=dcrm", 4, "lacks 2 of 2 units of edit_distance"),
        ("selection.near_duplicates=0.8", 4, "lacks 2 of 2 units of near_duplicates"),
        ("selection.metric=ifd_margin", 4, "lacks 2 of 2 units of unconditional"),
        ("selection.signals.wpo_weight={}", 4, "lacks 2 of 2 units of collision"),
        ("selection.implicit=dpo", 2, "models.reference (implicit: dpo): name one"),
        ("selection.quotas={a: 0.5}", 2, "input.columns.group"),
        ("models.policy.path=elsewhere", 2, "--set models.policy.path=elsewhere"),
        ("scoring.max_length=99", 2, "--set scoring.max_length=99"),
        ("input.path=elsewhere", 2, "--set input.path=elsewhere"),
        ("execution.rows_per_unit=7", 2, "--set execution.rows_per_unit=7"),
        ("output.path=elsewhere", 2, "--set output.path=elsewhere"),
        ("selection.alhpa=2", 2, "did you mean alpha?"),
    ],
)
def test_what_the_scores_do_not_give_is_refused_by_name(
    here: Mapjob, lone: dict[str, Any], override: str, code: int, named: str
) -> None:
    with without_models(lone):
        for command in ("rank", "sweep"):
            if command == "sweep" and "signals" in override:
                continue  # a sweep compares no signals
            more = ("--metric", override.partition("=")[2]) if command == "sweep" and "metric=" in override else ()
            refused = here(command, lone["output"]["path"], "--set", override, *more)
            assert refused.returncode == code, refused.stderr
            assert named in refused.stderr
            assert "Traceback" not in refused.stderr
            assert ("mapjob run" in refused.stderr) == (code == 4)


@pytest.fixture(scope="module")
def lone(world, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run file without a reference and without groups, which has run."""
    models = {name: model for name, model in world["models"].items() if name != "reference"}
    tree = {**world, "models": models, "input": {"path": world["input"]["path"]}}
    tree["output"] = {"path": str(tmp_path_factory.mktemp("lone") / "out")}
    run(parse_config(tree))
    return tree


def test_trust_is_refused_where_no_model_is_needed(here: Mapjob, lone: dict[str, Any]) -> None:
    refused = here("rank", lone["output"]["path"], "--trust-remote-code")
    assert refused.returncode == 2
    assert "--trust-remote-code" in refused.stderr


def test_what_another_run_has_scored_is_there(here: Mapjob, world, tmp_path: Path) -> None:
    """Edit distances of the policy's tokens are found under the fingerprint that the models would give them."""
    tree = with_more(world, tmp_path / "out", {})
    run(parse_config(with_more(tree, tmp_path / "out", {"selection": {"metric": "dcrm", "near_duplicates": 0.9}})))
    first = run(parse_config(tree))
    with without_models(tree):
        assert json.loads((tmp_path / "out" / "latest.json").read_text())["run_id"] == first["run_id"]
        ranked = here("rank", tmp_path / "out", "--set", "selection.metric=dcrm", "--json")
        assert last_json(ranked)["run_id"].startswith("dcrm-")


def test_a_corpus_that_has_grown_is_refused_with_the_count(here: Mapjob, world, tmp_path: Path) -> None:
    corpus = shutil.copytree(world["input"]["path"], tmp_path / "corpus")
    tree = with_more(world, tmp_path / "out", {"input": {"path": str(corpus)}})
    first = run(parse_config(tree))
    pq.write_table(pa.Table.from_pylist(make_pairs(70, seed=1)[40:]), corpus / "part-002.parquet")
    with without_models(tree):
        for command in ("rank", "sweep"):
            refused = here(command, tmp_path / "out")
            assert refused.returncode == 4
            assert "2 of 4 units of policy" in refused.stderr
            assert "`mapjob run` with the run file scores them" in refused.stderr
        assert here("show", tmp_path / "out", "1").returncode == 0
        refused = here("show", tmp_path / "out", "40")
        assert refused.returncode == 2
        assert "the corpus changed since this run" in refused.stderr
        limited = last_json(here("rank", tmp_path / "out", "--limit", "40", "--json"))
        assert limited["run_id"] == first["run_id"]


def test_a_run_of_an_older_version_is_refused_by_name(here: Mapjob, world, tmp_path: Path) -> None:
    first = run(parse_config(with_more(world, tmp_path / "out", {})))
    file = Path(path_of(first)) / "manifest.json"
    old = json.loads(file.read_text())
    old["models"] = {name: {"weights": "0" * 64, "tokenizer": "0" * 64} for name in old["models"]}
    file.write_text(json.dumps(old))
    for command in (("rank",), ("sweep",), ("show", "40")):
        refused = here(command[0], tmp_path / "out", *command[1:])
        assert refused.returncode == 2
        assert "an older version of mapjob wrote this run" in refused.stderr
        assert "give the run file" in refused.stderr


def test_a_folder_without_a_run_and_a_file_that_is_not_there(here: Mapjob, tmp_path: Path) -> None:
    assert "there is no finished run here" in here("rank", tmp_path).stderr
    assert "the run file cannot be read" in here("rank", tmp_path / "run.yaml").stderr

"""status, diff and clean on an output folder that grows, as a nightly job leaves it; SIGTERM in mid-run.

A run that others only build upon is made without Ray, whose start takes most of a small run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.cli import app as program
from mapjob.config.load import load_config
from mapjob.errors import IncompleteError
from mapjob.job.run import rank_job
from mapjob.report.diff import compare
from mapjob.store.run_folder import open_run, path_of
from tests.cli.conftest import Mapjob
from tests.cli.test_commands import last_json
from tests.fakes import make_pairs, make_policy, write_corpus
from tests.unit.test_notify import webhook
from tests.without_ray import run

RunFile = Callable[..., Path]
EXECUTION = {"rows_per_unit": 20}


@pytest.fixture
def nightly(run_file: RunFile, tmp_path: Path) -> Path:
    """A run file over a corpus of its own, which a test may change."""
    corpus = write_corpus(tmp_path / "corpus", make_pairs(60))
    return run_file(input={"path": str(corpus), "columns": {"group": "source"}}, execution=EXECUTION)


def test_a_corpus_that_grows(here: Mapjob, nightly: Path, tmp_path: Path) -> None:
    out, corpus = tmp_path / "out", tmp_path / "corpus"
    first = run(load_config(nightly))
    assert "since the promoted run: nothing new" in here("status", out).stdout

    pq.write_table(pa.Table.from_pylist(make_pairs(90, seed=1)[60:]), corpus / "part-002.parquet")
    status = here("status", out, "--json")
    assert "since the promoted run: 2 new or changed units (30 rows)\n" in status.stdout
    assert "no longer in the corpus" not in status.stdout
    assert max(map(len, status.stdout.splitlines()[:-1])) <= 80
    assert last_json(status)["lacking"] == {"records": 2, "policy": 2, "reward": 2}

    ran = here("run", nightly, "--json")
    second = last_json(ran)
    assert "4 units are already scored, 2 are not" in ran.stderr
    assert second["counts"]["ranked"] == 90
    assert json.loads((out / "latest.json").read_text())["run_id"] == second["run_id"]
    runs = last_json(here("status", out, "--json"))["runs"]
    assert [(run["run_id"], run["promoted"]) for run in runs] == [(first["run_id"], False), (second["run_id"], True)]

    difference = last_json(here("diff", path_of(first), second["run_path"], "--json"))
    old, new = selected(path_of(first)), selected(second["run_path"])
    assert set(difference["entered"]) == new.keys() - old.keys()
    assert set(difference["left"]) == old.keys() - new.keys()
    assert {pair: (a, b) for pair, a, b in difference["moved"]} == {
        pair: (old[pair], new[pair]) for pair in old.keys() & new.keys() if old[pair] != new[pair]
    }
    assert difference["jaccard"] == len(old.keys() & new.keys()) / len(old.keys() | new.keys())
    assert {name: sum(pair) for name, pair in difference["groups"].items()}.keys() == {"group 0", "group 1", "group 2"}

    new_run, ungrouped = open_run(second["run_path"]), open_run(path_of(first))
    ungrouped.manifest["config"]["input"]["columns"]["group"] = None
    assert compare(ungrouped, new_run).groups == {}, "no pair of a run without groups is counted as of none"

    (corpus / "part-002.parquet").unlink()
    assert last_json(here("run", nightly, "--json"))["run_id"] == first["run_id"], "removed files leave the ranking"
    assert json.loads((out / "latest.json").read_text())["run_id"] == first["run_id"], "a finished run is promoted too"


def selected(run_path: str) -> dict[str, int]:
    table = pq.read_table(Path(run_path) / "selected")
    return dict(zip(table["pair_id"].to_pylist(), table["rank"].to_pylist()))


def test_status_of_an_output_that_was_moved_and_of_files_that_were_touched(
    here: Mapjob, nightly: Path, tmp_path: Path
) -> None:
    run(load_config(nightly))
    (tmp_path / "out").rename(tmp_path / "moved")
    assert "since the promoted run: nothing new" in here("status", tmp_path / "moved").stdout
    for file in (tmp_path / "corpus").iterdir():
        file.touch()
    said = here("status", tmp_path / "moved").stdout
    assert "4 new or changed units (60 rows)\n  up to 4 units are no longer in the corpus\n" in said
    assert "4 units are in new or changed files: a run reads them, scores what is new" in said
    assert max(map(len, said.splitlines())) <= 80
    assert "policy: up to 4 units are not scored" in said


def test_clean_removes_what_no_run_names(here: Mapjob, nightly: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pairs = "".join(json.dumps(row) + "\n" for row in make_pairs(12))
    (tmp_path / "pairs.jsonl").write_text(pairs)
    run(load_config(nightly, [f"input.path={tmp_path / 'pairs.jsonl'}"]))
    kept = run(load_config(nightly))
    assert len(list((out / "inputs").iterdir())) == 1
    standing = {path for path in out.rglob("*") if path.is_file()}
    older = {path for path in (out / "plans").glob("*-000000.parquet") if path.with_stem(path.stem[:-1] + "1").exists()}
    standing -= older
    left = [out / "runs/map-dead/selected/train-00000-of-00001.parquet", out / "scores/0000000000000000/unit.parquet"]
    left += [next((out / "scores").glob("*")) / "0123456789abcdef0123.parquet", out / ".writing/tmp123"]
    left += [out / "inputs/0123.parquet"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left behind")

    assert "nothing to clean: no unreferenced file is older than 30 days" in here("clean", out).stdout
    asked = here("clean", out, "--days", "0", input="n\n")
    for name in ("runs/map-dead", "scores/0000000000000000", "0123456789abcdef0123.parquet", ".writing", "inputs/0123"):
        assert name in asked.stdout
    unanswered = here("clean", out, "--days", "0")
    assert unanswered.returncode == 2
    assert "nobody answered" in unanswered.stderr
    assert "--yes" in unanswered.stderr
    assert all(path.exists() for path in left), "it asks first"
    assert max(map(len, asked.stdout.splitlines())) <= 80
    assert len(older) == 2, "lists of files and of units"
    assert f"deleted {5 + len(older)}" in here("clean", out, "--days", "0", "--yes").stdout
    assert {path for path in out.rglob("*") if path.is_file()} == standing
    assert last_json(here("run", nightly, "--json"))["run_path"] == path_of(kept)


def test_old_runs_leave_with_what_only_they_refer_to(here: Mapjob, nightly: Path, tmp_path: Path) -> None:
    """Not the promoted one, nor the newest."""
    out, corpus = tmp_path / "out", tmp_path / "corpus"
    oldest = run(load_config(nightly, ["selection.alpha=3"]))
    before = {file.name for file in out.glob("scores/*/*.parquet")}
    write_corpus(corpus, make_pairs(60, seed=4))
    promoted = run(load_config(nightly))
    only_of_oldest = before - set(promoted["units"])
    other, newest = (rank_job(load_config(nightly, [f"selection.alpha={alpha}"])) for alpha in (2.0, 4.0))
    for manifest, day in ((oldest, 1), (promoted, 2), (other, 3), (newest, 4)):
        file = Path(path_of(manifest)) / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "finished_at": f"2020-01-0{day}T00:00:00+00:00"}))
    assert f"{'runs':<4}" in here("clean", out).stdout
    assert "nothing to clean" in here("clean", out, "--runs-older-than", "100000").stdout
    asked = here("clean", out, "--runs-older-than", "30", input="n\n").stdout
    assert [name for name in asked.split() if name.startswith("runs/")] == [
        f"runs/{manifest['run_id']}" for manifest in (oldest, other)
    ]
    assert "a unit that no run used" not in asked, "younger than --days"
    here("clean", out, "--runs-older-than", "30", "--days", "0", "--yes")
    assert {folder.name for folder in (out / "runs").iterdir()} == {promoted["run_id"], newest["run_id"]}
    assert only_of_oldest
    assert not {file.name for file in out.glob("scores/*/*.parquet")} & only_of_oldest
    assert here("show", out, "1").returncode == 0
    again = run(load_config(nightly))
    assert again["run_id"] == promoted["run_id"]
    assert again["spent"]["scored_rows"] == 0


def test_an_output_that_is_not_there(here: Mapjob, tmp_path: Path) -> None:
    for command in (["status"], ["clean"], ["diff", tmp_path / "none"]):
        result = here(*command, tmp_path / "none")
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


@pytest.mark.slow  # test_ends.py ends runs in every stage
def test_a_run_that_is_told_to_end_goes_on_later(run_file: RunFile, tmp_path: Path) -> None:
    """First by SIGTERM, then by Ctrl-C, each once a further unit has been committed."""
    corpus = write_corpus(tmp_path / "corpus", make_pairs(160))
    slow = make_policy(tmp_path / "slow", hidden_size=256, num_hidden_layers=8)
    path = run_file(
        input={"path": str(corpus)}, models={"policy": {"path": str(slow)}}, execution={**EXECUTION, "rows_per_unit": 5}
    )
    committed: set[str] = set()
    with webhook() as (url, told):
        for number, exit_code in ((signal.SIGTERM, 4), (signal.SIGINT, 130)):
            command = [sys.executable, "-m", "mapjob", "run", str(path), "--notify", url]
            environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
            running = subprocess.Popen(
                command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
            )
            deadline = time.monotonic() + 240
            while not units_below(tmp_path) - committed and time.monotonic() < deadline:
                time.sleep(0.05)
            running.send_signal(number)
            _, stderr = running.communicate(timeout=60)
            assert running.returncode == exit_code, stderr
            assert ("interrupted by SIGTERM" in stderr) == (number == signal.SIGTERM)
            assert "Traceback" not in stderr
            assert units_below(tmp_path) > committed
            committed = units_below(tmp_path)
    assert [(body["event"], body["exit_code"]) for body in told] == [("failed", 4)], "whoever presses Ctrl-C knows"
    standing = {file: file.stat().st_mtime_ns for file in columns_below(tmp_path) if file.name in committed}
    assert run(load_config(path))["counts"]["ranked"] == 160
    assert {file: file.stat().st_mtime_ns for file in standing} == standing
    assert len(units_below(tmp_path)) == 160 / 5


@pytest.mark.parametrize(
    ("error", "exit_code"), [(lambda: IncompleteError("what", "where", "do"), 4), (lambda: SystemExit(130), 130)]
)
def test_what_an_error_holds_is_gone_before_the_program_ends(error, exit_code, monkeypatch) -> None:
    """So a graph of Ray Data ends while Ray is still up."""
    gone = []

    class Graph:
        def __del__(self) -> None:
            gone.append(True)

    def command() -> None:
        graph = Graph()
        graph.error = error()  # a circle, as the frames of real errors make them
        raise graph.error

    monkeypatch.setattr(program, "app", command)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == exit_code
    assert gone


def test_nothing_starts_a_second_ray() -> None:
    """What Ray Data's threads would do in a run that is told to end, once Ray has left."""
    late = """
import sys
from mapjob.cli.app import main
sys.argv = ["mapjob", "doctor", "--help"]
try:
    main()
finally:
    import ray
    ray.put(1)
"""
    result = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "Ray has not been started yet" in result.stderr


def units_below(folder: Path) -> set[str]:
    """The units that are whole: with a file of the records, of the policy and of the reward model."""
    names = Counter(path.name for path in columns_below(folder))
    return {name for name, number in names.items() if number == 3}


def columns_below(folder: Path) -> list[Path]:
    return list((folder / "out").glob("scores/*/*.parquet"))

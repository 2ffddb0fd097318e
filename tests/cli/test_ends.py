"""What ends a run from outside, in each stage: exit code 4 with its message; the same command then finishes the run."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mapjob.job import prepare, publish, rank
from mapjob.pipeline.actors import Identify
from mapjob.pipeline.stages import Commit
from mapjob.store.run_folder import RunFolder
from mapjob.store.score_store import ScoreStore
from tests.cli.conftest import Mapjob
from tests.crash.test_kill_driver import published

RunFile = Callable[..., Path]
STAGES = {
    "planning": (prepare, "make_plan"),
    "reading": (Identify, "__call__"),
    "scoring": (Commit, "__call__"),
    "packing": (ScoreStore, "write_packs"),
    "ranking": (publish, "rank_pairs"),
    "publishing": (RunFolder, "put_table"),
    "committing": (RunFolder, "commit"),
}
SWEEP = {"planning": STAGES["planning"], "sweeping": (rank, "compare_choices")}
RANK = {name: STAGES[name] for name in ("planning", "ranking", "publishing")}


def strike(monkeypatch: pytest.MonkeyPatch, stage: tuple[Any, str], blow: Callable[[], None], at: int = 1) -> None:
    """Let a blow fall at a call of this stage."""
    owner, name = stage
    whole, calls = getattr(owner, name), []

    def struck(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == at:
            blow()
        return whole(*arguments, **options)

    monkeypatch.setattr(owner, name, struck)


def kill(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("command", "stage", "number", "says"),
    [
        *(("run", stage, signal.SIGTERM, "SIGTERM") for stage in STAGES.values()),
        *(("rank", stage, signal.SIGHUP, "SIGHUP") for stage in RANK.values()),
        *(("sweep", stage, signal.SIGTERM, "SIGTERM") for stage in SWEEP.values()),
        ("run", STAGES["publishing"], signal.SIGHUP, "SIGHUP"),
        ("run", STAGES["scoring"], signal.SIGHUP, "SIGHUP"),
    ],
)
def test_a_signal_is_resumable_in_every_stage(
    here: Mapjob, run_file: RunFile, tmp_path: Path, command: str, stage: tuple, number: signal.Signals, says: str
) -> None:
    path = run_file(execution={"rows_per_unit": 20})
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    if command != "run":
        assert here("run", path).returncode == 0
        path = run_file(execution={"rows_per_unit": 20}, selection={"alpha": 2.0})
    with pytest.MonkeyPatch.context() as patch:
        strike(patch, stage, lambda: kill(number))
        ended = here(command, path)
    assert ended.returncode == 4, ended.stderr
    assert f"error: interrupted by {says}\n" in ended.stderr
    assert "run the same command again" in ended.stderr
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before
    assert here(command, path).returncode == 0
    disturbed = published(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    if command != "run":
        assert here("run", run_file(execution={"rows_per_unit": 20})).returncode == 0
        run_file(execution={"rows_per_unit": 20}, selection={"alpha": 2.0})
    assert here(command, path).returncode == 0
    assert disturbed == published(tmp_path / "out")


def test_ctrl_c_is_130(here: Mapjob, run_file: RunFile) -> None:
    with pytest.MonkeyPatch.context() as patch:
        strike(patch, STAGES["ranking"], lambda: kill(signal.SIGINT))
        assert here("run", run_file()).returncode == 130


@pytest.mark.parametrize(("stage", "at"), [("scoring", 2), ("packing", 1), ("ranking", 1), ("publishing", 2)])
def test_an_output_that_is_deleted_in_mid_run(
    here: Mapjob, run_file: RunFile, tmp_path: Path, stage: str, at: int
) -> None:
    path = run_file(execution={"rows_per_unit": 20})
    with pytest.MonkeyPatch.context() as patch:
        strike(patch, STAGES[stage], lambda: shutil.rmtree(tmp_path / "out"), at)
        ended = here("run", path)
    assert ended.returncode == 4, ended.stderr
    assert str(tmp_path / "out") in ended.stderr
    assert here("run", path).returncode == 0


def test_the_program_names_an_unwritable_home(here: Mapjob, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray, which keeps a token there, raises it."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", f"{os.environ['HOME']}/.ray")

    monkeypatch.setattr("mapjob.store.storage.Storage.names", refuse)
    ended = here("status", "/tmp")
    assert ended.returncode == 2
    assert f"where: HOME={os.environ['HOME']}" in ended.stderr

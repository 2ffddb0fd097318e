"""Storage that cannot be used, as a user meets it: one message, its exit code, no traceback; and what mends it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mapjob.config.load import load_config
from tests.cli.conftest import Mapjob
from tests.cli.test_errors import refused
from tests.conftest import SmallDisk
from tests.without_ray import run

RunFile = Callable[..., Path]


def test_no_such_bucket(mapjob: Mapjob, run_file: RunFile, swift_bucket: str) -> None:
    refused(
        mapjob("run", run_file(), "--set", "output.path=s3://no-such-bucket/out"),
        2,
        "s3://no-such-bucket/out",
        "bucket",
    )


def test_wrong_credentials(
    mapjob: Mapjob, run_file: RunFile, swift_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    result = mapjob("run", run_file(), "--set", f"output.path={swift_bucket}/out")
    refused(result, 2, "not allowed", f"{swift_bucket}/out", "credentials")
    assert "not-the-secret" not in result.stderr


def test_a_store_that_ignores_conditions(mapjob: Mapjob, run_file: RunFile, careless_bucket: str) -> None:
    refused(
        mapjob("run", run_file(), "--set", f"output.path={careless_bucket}/out"), 2, "If-None-Match", "create-only puts"
    )


def test_a_read_only_output(mapjob: Mapjob, run_file: RunFile, small_disk: SmallDisk) -> None:
    with small_disk("ro") as folder:
        refused(mapjob("run", run_file(), "--set", f"output.path={folder}/out"), 2, "could not be written", str(folder))


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle(mapjob: Mapjob, run_file: RunFile, small_disk: SmallDisk) -> None:
    """The worker that commits meets it; with room, the same run file goes on (here without Ray)."""
    with small_disk("size=64k") as folder:
        command = ["run", run_file(), "--set", f"output.path={folder}/out"]
        (folder / "other").write_bytes(bytes(40 * 1024))
        result = mapjob(*command)
        refused(result, 4, "the storage is full", str(folder), "run the same command again")
        assert 'File "' not in result.stderr, "no trace of the worker"
        assert list((folder / "out" / "scores").iterdir()), "it came as far as the worker"
        (folder / "other").unlink()
        subprocess.run(["mount", "-o", "remount,size=16m", str(folder)], check=True)
        assert run(load_config(run_file(), [command[-1]]))["counts"]["ranked"] == 60

"""`mapjob doctor`: everything in order, and everything that can be wrong named with what to do."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Mapjob

RunFile = Callable[..., Path]


def test_everything_in_order(mapjob: Mapjob, run_file: RunFile, tmp_path: Path) -> None:
    result = mapjob("doctor", run_file(), "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert not [line for line in lines if line.startswith("BAD")]
    subjects = [finding["subject"] for finding in json.loads(lines[-1])["findings"]]
    assert subjects == ["versions", "CPU", "Ray", "corpus and models", "storage", "policy", "reward"]
    assert "supports create-only writes" in result.stdout
    same = [line for line in lines if line.endswith("8 rows alone and in one batch differ by at most 0")]
    assert [line.split()[1] for line in same] == ["policy:", "reward:"], "bit-equal on CPU"
    assert not list((tmp_path / "out").rglob("*.parquet")), "no score is kept"


def test_what_is_wrong_is_named_with_what_to_do(mapjob: Mapjob, run_file: RunFile, tmp_path: Path) -> None:
    wrong = ("--set", "models.policy.path=/nowhere", "--set", "execution.address=127.0.0.1:1")
    result = mapjob("doctor", run_file(), *wrong, "--json")
    assert result.returncode == 2
    bad = [line for line in result.stdout.splitlines() if line.startswith("BAD")]
    assert [line.split(":")[0] for line in bad] == ["BAD Ray", "BAD corpus and models"]
    assert "where: models.policy.path: /nowhere" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr

"""Two runs of one run file at the same time: both finish, in one result: that of a run alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from mapjob.config import load_config
from mapjob.job import path_of
from tests.without_ray import run


def test_two_runs_at_once(run_file: Callable[..., Path], tmp_path: Path) -> None:
    path = run_file(execution={"rows_per_unit": 6})
    command = [sys.executable, "-m", "mapjob", "run", str(path), "--json"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    running = [subprocess.Popen(command, env=environment, **options) for _ in range(2)]
    results = []
    for process in running:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        results.append(json.loads(stdout.strip().splitlines()[-1]))
    assert results[0]["run_path"] == results[1]["run_path"]
    alone = run(load_config(path, [f"output.path={tmp_path / 'alone'}"]))
    together, by_itself = (pq.read_table(Path(path) / "selected") for path in (results[0]["run_path"], path_of(alone)))
    assert together.equals(by_itself)
    assert not list((tmp_path / "out" / ".writing").glob("*")), "no writer left anything unfinished"

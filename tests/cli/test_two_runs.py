"""Two runs of one run file at the same time: both finish, in one result: that of a run alone.

One on Ray and one without, which starts once the other has committed a file: on their way they meet in the store.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mapjob.config.load import load_config
from mapjob.store.run_folder import path_of
from tests.without_ray import run


@pytest.mark.slow
def test_two_runs_at_once(run_file: Callable[..., Path], tmp_path: Path) -> None:
    path = run_file(execution={"rows_per_unit": 6})
    command = [sys.executable, "-m", "mapjob", "run", str(path), "--json"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    alone = run(load_config(path, [f"output.path={tmp_path / 'alone'}"]))
    with subprocess.Popen(command, env=environment, **options) as other:
        while not list((tmp_path / "out").glob("scores/*/*.parquet")) and other.poll() is None:
            time.sleep(0.01)
        assert other.poll() is None
        assert len(list((tmp_path / "out").glob("scores/*/*.parquet"))) < 3 * 10, "both have something left to do"
        here = run(load_config(path))
        stdout, stderr = other.communicate(timeout=300)
    assert other.returncode == 0, stderr
    assert json.loads(stdout.strip().splitlines()[-1])["run_path"] == path_of(here)
    together, by_itself = (pq.read_table(Path(path_of(manifest)) / "selected") for manifest in (here, alone))
    assert together.equals(by_itself)
    assert not list((tmp_path / "out" / ".writing").glob("*")), "no writer left anything unfinished"

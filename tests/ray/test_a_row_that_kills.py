"""Rows that end the process of whoever touches them: the run goes on, and they stand in errors/ by name."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.job.run import run_job
from mapjob.pipeline import graph
from mapjob.store.run_folder import open_run, path_of
from tests.fakes import make_pairs, write_corpus
from tests.ray.conftest import World
from tests.ray.deadly import KILLS_ENCODER, POISONS_REWARD, DeadlyEncoder, DeadlyScorer

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # tests/property/test_killer_rows.py has the halving without Ray
ROWS = {1: POISONS_REWARD, 2: KILLS_ENCODER}


def test_only_the_rows_that_kill_are_lost(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_pairs(4)
    for row, text in ROWS.items():
        rows[row]["chosen"] = text
    corpus = write_corpus(tmp_path / "corpus", rows, num_files=1)
    config = world.config(
        tmp_path / "out", input={"path": str(corpus)}, execution={"rows_per_unit": 2}, max_error_rate=0.5
    )
    monkeypatch.setattr(graph, "ReadAndEncode", DeadlyEncoder)
    monkeypatch.setattr(graph, "ScorerActor", DeadlyScorer)
    run = open_run(path_of(run_job(config)))
    errors = pa.concat_tables([run.folder.read_table(name) for name in run.folder.tables("errors")]).to_pylist()
    assert [(error["row"], error["reason"]) for error in errors] == [(row, "killed_process") for row in ROWS]
    assert run.manifest["counts"]["ranked"] == 4 - len(ROWS)
    for file in (tmp_path / "out").glob("scores/*/*.parquet"):
        assert pq.read_table(file)["row"].to_pylist() == [0, 1]

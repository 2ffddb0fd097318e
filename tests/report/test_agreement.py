"""The overlaps of a report are those of the selections that would have been published."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mapjob.config.load import parse_config
from mapjob.job.run import rank_job
from mapjob.metrics.table import METRICS
from mapjob.store.run_folder import path_of
from tests.report.parsed import Parsed


def published(tree, **selection) -> tuple[set[str], Parsed]:
    folder = Path(path_of(rank_job(parse_config({**tree, "selection": selection}))))
    ids = pq.read_table(folder / "selected", columns=["pair_id"])["pair_id"].to_pylist()
    return set(ids), Parsed((folder / "report.html").read_text())


@pytest.mark.parametrize("rules", [{}, {"quotas": {"plain": 0.7}}, {"held_out": 0.2, "on_disagreement": "drop"}])
def test_against_the_selections_themselves(tree, rules):
    own, parsed = published(tree, metric="map_signed", metrics=["implicit_large"], keep={"ratio": 0.3}, **rules)
    for metric in ("map", "explicit", "implicit_small", "random", "implicit_large"):
        other, _ = published(tree, metric=metric, keep={"count": len(own)}, **rules)
        overlap = len(own & other) / len(own | other)
        row = next(row for row in parsed.cells["others"] if row[0].removesuffix(about(metric)) == metric)
        assert row[2] == f"{overlap:.3f}", metric


def about(metric: str) -> str:
    return METRICS[metric].about.split("\n")[0]

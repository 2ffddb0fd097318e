"""Shards of every size: none of the rows is lost, planning stays quick, and a huge row group is read in part."""

import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.input import Input
from mapjob.corpus.plan import make_plan, read_unit
from mapjob.corpus.reader import read_rows
from tests.bad_inputs.conftest import Run, pairs, write

NUM_TINY = 500


def test_empty_shards_among_others(run: Run):
    outcome = run(pairs(0), pairs(4), pairs(0), pairs(3, 4), pairs(0))
    counts = outcome.manifest["counts"]
    assert (counts["rows"], counts["ranked"]) == (7, 7)


def test_thousands_of_tiny_files_are_planned_in_seconds(tmp_path):
    folder = write(tmp_path / "corpus", *(pairs(1, i) for i in range(NUM_TINY)))
    start = time.monotonic()
    plan = make_plan(Input(path=str(folder)), True, 2_000)
    assert time.monotonic() - start < 20
    assert (len(plan.units), plan.num_rows, plan.num_files) == (NUM_TINY, NUM_TINY, NUM_TINY)


@pytest.fixture(scope="module")
def huge(tmp_path_factory) -> tuple[str, pa.Table]:
    """One file of one row group of 30,000 rows."""
    table = pairs(30_000).append_column("tags", pa.array([[str(i), None] for i in range(30_000)]))
    file = tmp_path_factory.mktemp("huge") / "part.parquet"
    pq.write_table(table, file, row_group_size=len(table), compression="none", use_dictionary=False)
    return str(file), table


def test_one_huge_row_group_is_cut_into_units(huge):
    file, table = huge
    plan = make_plan(Input(path=file), True, 2_000)
    assert len(plan.units) == 15
    for unit in plan.units[::4]:
        own = table.slice(unit.start, unit.num_rows)
        assert read_unit(unit).equals(own)
        assert read_unit(unit, ["tags", "chosen"]).equals(own.select(["tags", "chosen"]))


@pytest.mark.parametrize("start", [0, 14_000, 28_000])
def test_a_unit_of_a_huge_row_group_takes_the_memory_of_a_few_units(huge, start):
    file, table = huge
    default, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        num_rows = read_rows(file, start, start + 2_000).num_rows  # the rows themselves may not outlive their pool
    finally:
        pa.set_memory_pool(default)
    assert num_rows == 2_000
    assert pool.max_memory() < table.nbytes / 2

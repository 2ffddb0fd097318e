"""Shards of every size: none of the rows is lost, planning stays quick, and a huge row group is read in part."""

import io
import random
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.input import Input
from mapjob.corpus import reader as reading
from mapjob.corpus.plan import make_plan, read_unit
from mapjob.corpus.reader import RowReader, read_rows
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
        assert read_unit(unit, RowReader(["tags", "chosen"])).equals(own.select(["tags", "chosen"]))


def test_units_that_follow_each_other_read_a_huge_row_group_once(huge, monkeypatch):
    file, _ = huge
    num_bytes = 0

    class Counted(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            nonlocal num_bytes
            num_bytes += (read := super().readinto(buffer))
            return read

        def read(self, size: int = -1) -> bytes:
            nonlocal num_bytes
            num_bytes += len(data := super().read(size))
            return data

    monkeypatch.setattr(reading, "open_file", Counted)
    plan, reader = make_plan(Input(path=file), True, 500), RowReader()
    assert sum(read_unit(unit, reader).num_rows for unit in plan.units) == 30_000
    assert num_bytes < 1.2 * Path(file).stat().st_size


def test_any_ranges_of_any_files_are_their_rows(tmp_path):
    generator = random.Random(0)
    tables = {}
    for size in (1, 7, 2_500):
        file = str(tmp_path / f"{size}.parquet")
        tables[file] = pairs(generator.randint(2_400, 2_600))
        pq.write_table(tables[file], file, row_group_size=size)
    reader = RowReader(["chosen"])
    for _ in range(100):
        file, table = generator.choice(list(tables.items()))
        start = generator.randint(0, table.num_rows)
        for _ in range(3):  # ahead, with or without rows between
            stop = generator.randint(start, table.num_rows)
            assert pa.concat_tables(reader.read(file, start, stop)).equals(table.select(["chosen"])[start:stop])
            start = generator.choice([stop, min(stop + 5, table.num_rows)])


def test_rows_are_read_from_the_storage_anew_after_an_error(huge, monkeypatch):
    file, table = huge
    reader = RowReader()
    next(reader.read(file, 0, 2_000))
    with monkeypatch.context() as patch:
        patch.setattr(reading.OpenRows, "read", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            next(reader.read(file, 1_000, 2_000))
    assert pa.concat_tables(reader.read(file, 1_000, 2_000)).equals(table[1_000:2_000])


def test_a_file_with_another_mark_is_opened_anew(tmp_path):
    file, reader = str(tmp_path / "part.parquet"), RowReader()
    for first in (0, 5):
        pq.write_table(pairs(5, first), file)
        assert next(reader.read(file, 0, 5, mark=f"from {first}")).equals(pairs(5, first))


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

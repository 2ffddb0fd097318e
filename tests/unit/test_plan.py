"""The plan: files found, units cut and named, rows read back; and what is said of files that cannot be read."""

import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjob.config.input import Input
from mapjob.corpus.files import find_files
from mapjob.corpus.listing import Listed
from mapjob.corpus.plan import Plan, make_plan
from mapjob.corpus.reader import read_rows
from mapjob.corpus.units import SourceFile, cut
from mapjob.errors import ConfigError, InputError
from mapjob.scoring.reader_families import identify
from tests.readings import READINGS


def pairs(num: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + num)
    columns = {name: [f"{name} {i}" for i in numbers] for name in ("prompt", "chosen", "rejected")}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def write(path: Path, table: pa.Table, row_group_size: int = 50) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def source_file(groups: list[int] | tuple[int, ...]) -> SourceFile:
    listed = Listed("a", "a", "parquet", 1, "1")
    return SourceFile("a", listed, None, pa.schema([]), tuple(groups))


def plan(path: str | list[str], rows_per_unit: int = 100, limit: int | None = None) -> Plan:
    return make_plan(Input(path=path), True, rows_per_unit, limit)


def paths(path: str | list[str]) -> list[str]:
    return [file.path for file in find_files(Input(path=path), None).files]


# Cutting


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(1, 40))
def test_cut_covers_every_row_once_and_no_piece_is_too_large(groups, rows_per_unit):
    pieces = list(cut(source_file(groups), rows_per_unit))
    assert [row for start, stop in pieces for row in range(start, stop)] == list(range(sum(groups)))
    assert all(0 < stop - start <= rows_per_unit for start, stop in pieces)


@given(st.lists(st.integers(1, 20), max_size=12), st.integers(20, 40))
def test_small_row_groups_are_joined_whole_and_as_many_as_fit(groups, rows_per_unit):
    pieces = list(cut(source_file(groups), rows_per_unit))
    edges = {sum(groups[:i]) for i in range(len(groups) + 1)}
    assert all(start in edges and stop in edges for start, stop in pieces)
    for (start, stop), (_, next_stop) in pairwise(pieces):
        next_group = min(edge for edge in edges if edge > stop)
        assert next_group <= next_stop
        assert next_group - start > rows_per_unit


@pytest.mark.parametrize(
    ("groups", "rows_per_unit", "expected"),
    [
        ((), 10, []),
        ((0, 0), 10, []),
        ((10,), 10, [(0, 10)]),
        ((11,), 10, [(0, 5), (5, 11)]),
        ((25,), 10, [(0, 8), (8, 16), (16, 25)]),
        ((4, 6, 1), 10, [(0, 10), (10, 11)]),
        ((4, 0, 25, 3), 10, [(0, 4), (4, 12), (12, 20), (20, 29), (29, 32)]),
    ],
)
def test_cut_by_example(groups, rows_per_unit, expected):
    assert list(cut(source_file(groups), rows_per_unit)) == expected


def test_units_stand_in_file_and_row_order_and_find_their_rows(tmp_path):
    write(tmp_path / "b.parquet", pairs(120, 70))
    write(tmp_path / "a.parquet", pairs(70))
    made = plan(str(tmp_path), rows_per_unit=40)
    rows = [row for unit in made.units for row in read_rows(unit.file, unit.start, unit.stop).to_pylist()]
    assert rows == pairs(190).to_pylist()
    assert (made.num_rows, made.num_files) == (190, 2)
    for position in (0, 69, 70, 189):
        name, row = made.locate(position)
        assert read_rows(str(tmp_path / name), row, row + 1).to_pylist() == pairs(1, position).to_pylist()


# Unit ids


def ids(path: Path, rows_per_unit: int = 40) -> list[str]:
    made = plan(str(path), rows_per_unit)
    return [identify(unit, made.corpus)[0] for unit in made.units]


def test_a_new_unit_has_no_id_before_it_is_read(tmp_path):
    write(tmp_path / "a.parquet", pairs(100))
    assert {unit.id for unit in plan(str(tmp_path)).units} == {""}


def test_a_new_shard_leaves_the_ids_of_the_others(tmp_path):
    write(tmp_path / "b.parquet", pairs(100))
    before = ids(tmp_path)
    write(tmp_path / "a.parquet", pairs(30, 100))
    assert ids(tmp_path)[1:] == before


def test_ids_are_of_the_rows_and_not_of_paths_times_row_groups_or_columns_that_are_not_read(tmp_path):
    file = write(tmp_path / "in" / "a.parquet", pairs(100))
    before = ids(tmp_path / "in")
    os.utime(file, (1, 1))
    assert ids(tmp_path / "in") == before
    moved = file.rename(tmp_path / "in" / "b.parquet")
    assert ids(tmp_path / "in") == ids(moved) == ids(tmp_path / "*" / "*.parquet") == before
    pq.write_table(pairs(100).append_column("more", pa.array(range(100))), moved, row_group_size=50, compression="gzip")
    assert ids(tmp_path / "in") == before


def test_ids_change_with_one_label_in_a_file_of_the_same_size_and_time(tmp_path):
    file = write(tmp_path / "a.parquet", pairs(100))
    before, stat = ids(tmp_path), file.stat()
    rows = pairs(100).to_pylist()
    rows[50]["chosen"], rows[50]["rejected"] = rows[50]["rejected"], rows[50]["chosen"]
    write(file, pa.Table.from_pylist(rows))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = ids(tmp_path)
    assert [one == other for one, other in zip(before, after)] == [True, True, False, True]


def test_ids_change_with_the_row_range_and_with_an_id_or_a_group(tmp_path):
    write(tmp_path / "a.parquet", pairs(100).append_column("who", pa.array(["x", "y"] * 50)))
    before = ids(tmp_path)
    assert not set(before) & set(ids(tmp_path, rows_per_unit=20))
    made = make_plan(Input(path=str(tmp_path), columns={"group": "who"}), True, 40)
    assert not set(before) & {identify(unit, made.corpus)[0] for unit in made.units}


def test_a_broken_row_has_its_reason_in_the_id_of_its_unit(tmp_path):
    rows = pairs(3).to_pylist()
    write(tmp_path / "a.parquet", pa.Table.from_pylist([*rows[:2], {**rows[2], "chosen": None}]))
    one = ids(tmp_path)
    write(tmp_path / "a.parquet", pa.Table.from_pylist([*rows[:2], {**rows[2], "chosen": ""}]))
    assert ids(tmp_path) != one


# Limit


@pytest.mark.parametrize("limit", [1, 49, 50, 51, 60, 99, 100])
def test_limit_keeps_the_first_rows(tmp_path, limit):
    write(tmp_path / "a.parquet", pairs(60))
    write(tmp_path / "b.parquet", pairs(40, 60))
    made = plan(str(tmp_path), rows_per_unit=50, limit=limit)
    rows = [row for unit in made.units for row in read_rows(unit.file, unit.start, unit.stop).to_pylist()]
    assert rows == pairs(100).to_pylist()[:limit]


def test_limit_shares_whole_units_with_the_run_without_it(tmp_path):
    write(tmp_path / "a.parquet", pairs(100))
    whole = plan(str(tmp_path), rows_per_unit=50).units
    limited = plan(str(tmp_path), rows_per_unit=50, limit=70).units
    assert limited == (whole[0], replace(whole[1], stop=70))
    assert plan(str(tmp_path), rows_per_unit=50, limit=50).units == whole[:1]
    assert plan(str(tmp_path), rows_per_unit=50, limit=1000).units == whole


def test_limit_zero_is_a_corpus_without_rows(tmp_path):
    write(tmp_path / "a.parquet", pairs(10))
    with pytest.raises(InputError, match="no rows"):
        plan(str(tmp_path), limit=0)


# Finding files


@pytest.fixture
def tree(tmp_path) -> Path:
    """Three shards, one of them in a subfolder, among what other tools leave lying about."""
    for name in ("a.parquet", "b.parquet", "sub/c.parquet"):
        write(tmp_path / "corpus" / name, pairs(3))
    for name in (".hidden.parquet", "_unfinished.parquet", "_temporary/0/d.parquet", ".tmp/e.parquet"):
        write(tmp_path / "corpus" / name, pairs(3))
    for name in ("_SUCCESS", "README.md", "a.parquet.crc"):
        (tmp_path / "corpus" / name).write_text("")
    return tmp_path / "corpus"


def named(root: Path, *names: str) -> list[str]:
    return [str(root / name) for name in names]


def test_a_folder_gives_its_visible_parquet_files_by_name(tree):
    assert paths(str(tree)) == paths(f"{tree}/") == named(tree, "a.parquet", "b.parquet", "sub/c.parquet")


def test_a_folder_below_a_hidden_one_is_read(tmp_path):
    write(tmp_path / ".cache" / "_corpus" / "a.parquet", pairs(3))
    assert paths(str(tmp_path / ".cache" / "_corpus")) == named(tmp_path, ".cache/_corpus/a.parquet")


def test_a_file_by_its_own_name_may_be_hidden_or_called_anything(tree):
    assert paths(str(tree / "_unfinished.parquet")) == named(tree, "_unfinished.parquet")
    shutil.copy(tree / "a.parquet", tree / "shard-0")
    assert paths(str(tree / "shard-0")) == named(tree, "shard-0")


def test_glob(tree):
    assert paths(f"{tree}/[ab].parquet") == named(tree, "a.parquet", "b.parquet")
    assert paths(f"{tree}/sub/*.parquet") == named(tree, "sub/c.parquet")


@pytest.mark.parametrize("pattern", ["*.parquet", "**/*.parquet"])
def test_a_glob_finds_no_hidden_or_unfinished_files(tree, pattern):
    """A wildcard is no more explicit than a folder: `_temporary` holds rows of a job that has not finished."""
    found = paths(f"{tree}/{pattern}")
    assert [name for name in found if any(part[0] in "._" for part in Path(name).relative_to(tree).parts)] == []
    assert set(named(tree, "a.parquet", "b.parquet")) <= set(found)


def test_a_folder_whose_name_looks_like_a_glob(tmp_path):
    write(tmp_path / "run[1]" / "a.parquet", pairs(3))
    assert paths(str(tmp_path / "run[1]")) == named(tmp_path, "run[1]/a.parquet")


def test_a_list_of_paths_gives_each_file_once(tree, monkeypatch):
    monkeypatch.chdir(tree.parent)
    given_ways = [str(tree / "b.parquet"), str(tree), f"{tree}/*/c.parquet", f"file://{tree}/a.parquet", "corpus"]
    assert paths(given_ways) == named(tree, "a.parquet", "b.parquet", "sub/c.parquet")


@pytest.mark.parametrize("name", ["nothing", "nothing.parquet", "nothing/*.parquet", "empty", "notes"])
def test_a_path_without_parquet_files(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no data here")
    with pytest.raises(ConfigError) as caught:
        find_files(Input(path=str(tmp_path / name)), None)
    assert str(tmp_path / name) in caught.value.where
    assert "folder" in caught.value.do


def test_an_unknown_kind_of_url():
    with pytest.raises(ConfigError, match="no storage driver"):
        find_files(Input(path="nosuchstore://bucket/corpus"), None)


# Files that cannot be read


def flip_footer(data: bytes) -> bytes:
    return data[:-60] + bytes(byte ^ 0xFF for byte in data[-60:-8]) + data[-8:]


BROKEN = {
    "zero bytes": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "not Parquet": lambda data: b'{"prompt": "hi"}\n' * 20,
    "damaged footer": flip_footer,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_file_that_is_no_parquet_is_an_input_error_that_names_it(tmp_path, fault):
    write(tmp_path / "a.parquet", pairs(100))
    file = write(tmp_path / "b.parquet", pairs(100))
    file.write_bytes(BROKEN[fault](file.read_bytes()))
    with pytest.raises(InputError, match="not a readable Parquet file") as caught:
        find_files(Input(path=str(tmp_path)), None)
    assert caught.value.where == str(file)
    assert len(str(caught.value).splitlines()) == 3


def test_damaged_pages_are_an_input_error_that_names_file_and_rows(tmp_path):
    file = write(tmp_path / "a.parquet", pairs(100))
    data = file.read_bytes()
    file.write_bytes(data[:4] + b"\xff" * 400 + data[404:])
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_rows(str(file), 10, 20)
    assert str(file) in caught.value.where
    assert "10 to 20" in caught.value.where


def test_a_file_that_vanished_after_the_plan_is_an_input_error(tmp_path):
    file = write(tmp_path / "a.parquet", pairs(100))
    (unit,) = plan(str(tmp_path)).units
    file.unlink()
    with pytest.raises(InputError) as caught:
        read_rows(unit.file, unit.start, unit.stop)
    assert str(file) in caught.value.where


def test_a_file_that_became_shorter_after_the_plan_is_an_input_error(tmp_path):
    file = write(tmp_path / "a.parquet", pairs(100))
    (unit,) = plan(str(tmp_path)).units
    write(file, pairs(60))
    with pytest.raises(InputError, match="60 rows instead of 100"):
        read_rows(unit.file, unit.start, unit.stop)


def test_an_empty_shard_among_others_is_fine(tmp_path):
    write(tmp_path / "a.parquet", pairs(0))
    write(tmp_path / "b.parquet", pairs(5))
    write(tmp_path / "c.parquet", pairs(0))
    made = plan(str(tmp_path))
    assert (made.num_rows, made.corpus.reading, len(made.units)) == (5, READINGS["trl"], 1)


def test_a_corpus_of_empty_shards_has_no_rows(tmp_path):
    write(tmp_path / "a.parquet", pairs(0))
    with pytest.raises(InputError, match="no rows"):
        plan(str(tmp_path))


def test_shards_that_differ_in_a_columns_type_are_refused_by_name(tmp_path):
    write(tmp_path / "a.parquet", pairs(3).append_column("score", pa.array([1.0, 2.0, 3.0])))
    write(tmp_path / "b.parquet", pairs(3).append_column("score", pa.array(["x", "y", "z"])))
    with pytest.raises(InputError, match="differ in a column's type") as caught:
        plan(str(tmp_path))
    assert caught.value.where.endswith("b.parquet")


def test_shards_may_differ_in_columns_and_in_numeric_width(tmp_path):
    write(tmp_path / "a.parquet", pairs(3).append_column("score", pa.array([1, 2, 3], pa.int32())))
    write(tmp_path / "b.parquet", pairs(3).append_column("score", pa.array([1.5, 2.5, 3.5])))
    write(tmp_path / "c.parquet", pairs(3).append_column("source", pa.array(["x", "y", "z"])))
    schema = plan(str(tmp_path)).schema
    assert (schema.field("score").type, schema.field("source").type) == (pa.float64(), pa.string())


# Reading rows


@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([1, 7, 10, 40, 50]))
def test_rows_over_row_group_edges_are_a_slice_of_the_whole(tmp_path_factory, one, other, row_group_size):
    file = tmp_path_factory.getbasetemp() / f"groups-of-{row_group_size}.parquet"
    if not file.exists():
        write(file, pairs(40), row_group_size)
    start, stop = sorted((one, other))
    assert read_rows(str(file), start, stop).equals(pairs(40).slice(start, stop - start))
    assert read_rows(str(file), start, stop, ["chosen"]).equals(pairs(40).slice(start, stop - start).select(["chosen"]))

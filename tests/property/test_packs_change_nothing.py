"""Whatever is packed, damaged, removed or asked for: the same tables as from the files of the units."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjob.store import packs, score_store
from mapjob.store.score_store import ScoreStore

FAMILIES = ["policy", "reward"]


def columns(family: str, unit: int, num_rows: int) -> pa.Table:
    """Rows with nulls, empty lists and lists of all lengths."""
    lists = [None if (unit + row) % 5 == 0 else [float(unit * row)] * (row % 3) for row in range(num_rows)]
    texts = [None if (unit + row) % 3 else f"{family} {unit}" for row in range(num_rows)]
    keys = [unit.to_bytes(16, "little")] * num_rows
    return pa.table(
        {
            "row_key": pa.array(keys, pa.binary(16)),
            "values": pa.array(lists, pa.list_(pa.float64())),
            "flag": pa.array([row % 2 == 0 for row in range(num_rows)]),
            "detail": pa.array(texts, pa.string()),
        }
    )


@contextmanager
def of_sizes(units: int, rows: int, fewest: int) -> Iterator[None]:
    with (
        patch.multiple(packs, UNITS_PER_PACK=units, ROWS_PER_PACK=rows, FEWEST_UNITS=fewest),
        patch.object(score_store, "FEWEST_UNITS", fewest),
    ):
        yield


@st.composite
def nights(draw: st.DrawFn) -> list[list[int]]:
    """The numbers of the units of each night's corpus: some new, some gone, in any order."""
    numbers = st.lists(st.integers(0, 30), min_size=1, max_size=30, unique=True)
    return draw(st.lists(st.one_of(numbers, numbers.map(sorted)), min_size=1, max_size=3))


@settings(max_examples=100)
@given(st.data(), nights(), st.integers(1, 12), st.integers(1, 60), st.integers(1, 4))
def test_packs_change_nothing(
    data: st.DataObject, corpora: list[list[int]], units: int, rows: int, fewest: int
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=31, max_size=31))
    with tempfile.TemporaryDirectory() as folder, of_sizes(units, rows, fewest):
        for numbers in corpora:
            families = data.draw(st.sampled_from([FAMILIES, FAMILIES[:1]]))
            for family in families:
                for number in numbers:
                    if f"{number}" not in ScoreStore(folder).done(family):
                        ScoreStore(folder).commit(family, f"{number}", columns(family, number, sizes[number]))
            store = ScoreStore(folder)
            store.write_packs(families, {f"{number}": sizes[number] for number in numbers})
            for reader in (store, ScoreStore(folder)):
                check(reader, families, numbers, sizes)
            damage(data, sorted(Path(folder).glob("scores/*/packs/*.parquet")))
            asked = data.draw(st.lists(st.sampled_from(numbers), max_size=40))
            check(ScoreStore(folder), families, asked, sizes)
            check(ScoreStore(folder), families, numbers, sizes)


def check(store: ScoreStore, families: list[str], numbers: list[int], sizes: list[int]) -> None:
    ids = [f"{number}" for number in numbers]
    for family in families:
        expected = [store.read(family, unit) for unit in ids]
        assert expected == [columns(family, number, sizes[number]) for number in numbers]
        tables = list(store.read_all(family, ids))
        assert tables == expected
        assert all(one.schema.equals(other.schema, check_metadata=True) for one, other in zip(tables, expected))
        texts = list(store.read_all(family, ids, without={"values", "detail"}))
        assert texts == [table.select(["row_key", "flag"]) for table in expected]


def damage(data: st.DataObject, files: list[Path]) -> None:
    """Some packs are removed, cut short, or exchanged for others."""
    for file in data.draw(st.lists(st.sampled_from(files), unique=True)) if files else ():
        content = data.draw(
            st.sampled_from(
                [None, file.read_bytes()[:-9], b"", *(other.read_bytes() for other in files if other.exists())]
            )
        )
        file.unlink()
        if content is not None:
            file.write_bytes(content)

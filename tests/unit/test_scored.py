"""The units of a plan out of the score store: ids, rows and reasons by position, and files that are not right."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.run import Input
from mapjob.config.selection import Selection
from mapjob.corpus.plan import Plan, make_plan
from mapjob.errors import MapjobError, Reason
from mapjob.selection.load import load_scored
from mapjob.selection.scored import ScoredUnits
from mapjob.store.tables import to_parquet
from tests.scored_units import named, scored_units

NUM_ROWS = 50
REFUSED = {7: ("overlength", "9000 tokens"), 8: ("null_field", "prompt is null"), 40: ("overlength", "8000 tokens")}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """25 units of two rows each, more than are read ahead."""
    (tmp_path / "corpus").mkdir()
    rows = [{"prompt": f"p {i}", "chosen": f"c {i}", "rejected": f"r {i}"} for i in range(NUM_ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "corpus" / "part.parquet")
    return named(make_plan(Input(path=str(tmp_path / "corpus")), False, rows_per_unit=2))


@pytest.fixture
def units(plan: Plan) -> ScoredUnits:
    return scored_units(plan, reasons=REFUSED)


def files(tmp_path: Path, unit_id: str) -> dict[str, Path]:
    return {file.parent.name: file for file in tmp_path.glob(f"*/scores/*/{unit_id}.parquet")}


@pytest.mark.parametrize("positions", [[], [0], [49], [3, 4, 5, 6, 33], list(range(50))])
def test_pair_ids_by_position(units, positions):
    expected = [None if i == 8 else f"id {i}" for i in positions]
    assert units.pair_ids(np.array(positions, np.int64)).to_pylist() == expected


def test_units_come_in_the_order_asked_for(units):
    assert [unit.index for unit in units.read()] == list(range(25))
    asked = [24, 0, 3, 3]
    assert [(unit.index, unit.first_row) for unit in units.read(asked)] == [(i, 2 * i) for i in asked]
    assert [unit.pairs.position.tolist() for unit in units.read([3, 4])] == [[6], [9]]


@pytest.mark.parametrize("rows_at_once", [1, 7, 10, NUM_ROWS])
def test_many_units_read_as_one_have_the_numbers_of_every_unit(units, plan, monkeypatch, rows_at_once):
    monkeypatch.setattr("mapjob.selection.scored.ROWS_AT_ONCE", rows_at_once)
    alone, joined = list(units.read()), list(units.read_numbers())
    assert len(joined) == {1: 25, 7: 7, 10: 5, NUM_ROWS: 1}[rows_at_once]
    assert [piece.first_row for piece in joined] == [2 * piece.index for piece in joined]
    for name in ("position", "content_key", "prompt_key", "chosen", "rejected"):
        parts = [np.concatenate([getattr(unit.pairs, name) for unit in pieces]) for pieces in (alone, joined)]
        assert np.array_equal(*parts), name
    for name in alone[0].pairs.columns:
        parts = [np.concatenate([unit.pairs.columns[name] for unit in pieces]) for pieces in (alone, joined)]
        assert np.array_equal(*parts), name
    reasons = [[reason for unit in pieces for reason in unit.rows["reason"].to_pylist()] for pieces in (alone, joined)]
    assert reasons[0] == reasons[1]
    assert sum(map(bool, reasons[0])) == len(REFUSED)
    assert all(piece.rows["pair_id"].null_count == piece.rows.num_rows for piece in joined)


def test_a_row_and_the_position_of_an_id(units):
    assert units.row(7) == {"pair_id": "id 7", "reason": "overlength", "detail": "9000 tokens"}
    assert units.row(49) == {"pair_id": "id 49", "reason": None, "detail": None}
    assert units.find("id 31") == [(31, 0)]
    assert units.find("id 7") == units.find("nobody") == []


def test_every_row_is_a_pair_or_refused(units):
    scored = load_scored(units, Selection())
    assert {reason: rows.tolist() for reason, rows in scored.refused.items()} == {
        Reason.OVERLENGTH: [7, 40],
        Reason.NULL_FIELD: [8],
    }
    assert scored.pairs.position.tolist() == [i for i in range(NUM_ROWS) if i not in REFUSED]
    assert set(scored.flags.values()) == {0}


def test_a_corpus_of_refused_rows_alone(plan):
    units = scored_units(plan, reasons=dict.fromkeys(range(NUM_ROWS), ("overlength", "long")))
    scored = load_scored(units, Selection())
    assert len(scored.pairs) == 0
    assert scored.refused[Reason.OVERLENGTH].tolist() == list(range(NUM_ROWS))


def test_only_a_few_units_are_read_ahead(units, plan, tmp_path):
    files(tmp_path, plan.units[-1].id)["policy"].unlink()
    reading = units.read()
    assert next(reading).index == 0
    with pytest.raises(MapjobError, match="column file is missing"):
        list(reading)


def test_columns_of_another_number_of_rows_are_refused(units, plan, tmp_path):
    file = files(tmp_path, plan.units[3].id)["reward"]
    file.write_bytes(to_parquet(pq.read_table(file).slice(1)))
    with pytest.raises(MapjobError, match="1 rows of reward are stored for a unit of 2") as caught:
        list(units.read())
    assert f"unit {plan.units[3].id}: {plan.units[3].name}, rows 6 to 8" in caught.value.where

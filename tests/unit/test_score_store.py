"""The score store: a unit is committed once, adopted by a second writer, and checked whenever it is read."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.errors import MapjobError
from mapjob.store.score_store import ScoreStore

FINGERPRINT, UNIT = "f" * 16, "a" * 20


def columns(*rewards: float) -> pa.Table:
    values = pa.array([[reward, -reward] for reward in rewards], pa.list_(pa.float64()))
    return pa.table({"row": pa.array(range(len(rewards)), pa.int32()), "rewards": values})


def test_a_unit_is_done_once_it_is_committed(root):
    store = ScoreStore(root)
    assert store.done(FINGERPRINT) == set()
    assert store.commit(FINGERPRINT, UNIT, columns(1.0, 2.0)) is True
    store.declare(FINGERPRINT, {"kind": "rewards"})
    assert store.done(FINGERPRINT) == {UNIT}
    assert store.done("0" * 16) == set()
    assert ScoreStore(root).read(FINGERPRINT, UNIT).equals(columns(1.0, 2.0))


def test_the_second_writer_of_a_unit_adopts_the_first(root):
    store = ScoreStore(root)
    assert store.commit(FINGERPRINT, UNIT, columns(1.0, 2.0)) is True
    # Another machine may differ in the last digit; what stands is what counts.
    assert store.commit(FINGERPRINT, UNIT, columns(1.0, 2.0000001)) is False
    assert store.read(FINGERPRINT, UNIT).equals(columns(1.0, 2.0))


def test_writers_that_disagree_about_the_rows_are_told(root):
    store = ScoreStore(root)
    store.commit(FINGERPRINT, UNIT, columns(1.0, 2.0))
    with pytest.raises(MapjobError, match="disagree about the rows") as caught:
        store.commit(FINGERPRINT, UNIT, columns(1.0))
    assert f"{root}/scores/{FINGERPRINT}/{UNIT}.parquet" in caught.value.where


def test_a_missing_column_file_is_named(root):
    with pytest.raises(MapjobError, match="missing") as caught:
        ScoreStore(root).read(FINGERPRINT, UNIT)
    assert f"{root}/scores/{FINGERPRINT}/{UNIT}.parquet" in caught.value.where


def unit_file(folder: Path, fingerprint: str = FINGERPRINT, unit: str = UNIT) -> Path:
    return folder / "scores" / fingerprint / f"{unit}.parquet"


@pytest.mark.parametrize("fault", ["empty", "truncated", "text"])
def test_a_damaged_column_file_is_named_and_never_adopted(tmp_path, fault):
    store = ScoreStore(str(tmp_path))
    store.commit(FINGERPRINT, UNIT, columns(1.0, 2.0))
    file = unit_file(tmp_path)
    data = {"empty": b"", "truncated": file.read_bytes()[:-20], "text": b"not Parquet"}[fault]
    file.write_bytes(data)
    for touch in (lambda: store.read(FINGERPRINT, UNIT), lambda: store.commit(FINGERPRINT, UNIT, columns(1.0, 2.0))):
        with pytest.raises(MapjobError, match="damaged") as caught:
            touch()
        assert caught.value.where == str(file)
        assert "remove it" in caught.value.do


@pytest.mark.parametrize("move", [("e" * 16, UNIT), (FINGERPRINT, "b" * 20)])
def test_a_file_copied_from_another_unit_or_scorer_is_refused(tmp_path, move):
    store = ScoreStore(str(tmp_path))
    store.commit(FINGERPRINT, UNIT, columns(1.0))
    foreign = unit_file(tmp_path, *move)
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(unit_file(tmp_path).read_bytes())
    with pytest.raises(MapjobError, match="belongs to another") as caught:
        store.read(*move)
    assert caught.value.where == str(foreign)


def test_parquet_of_someone_else_is_refused(tmp_path):
    file = unit_file(tmp_path)
    file.parent.mkdir(parents=True)
    pq.write_table(columns(1.0), file)
    with pytest.raises(MapjobError, match="its bytes changed"):
        ScoreStore(str(tmp_path)).read(FINGERPRINT, UNIT)


def test_read_all_keeps_the_order_asked_for(tmp_path):
    store = ScoreStore(str(tmp_path))
    for number in range(30):
        store.commit(FINGERPRINT, f"{number:020}", columns(float(number)))
    asked = [f"{number:020}" for number in (7, 29, 0, 7)]
    assert [table["rewards"][0][0].as_py() for table in store.read_all(FINGERPRINT, asked)] == [7.0, 29.0, 0.0, 7.0]


def test_a_description_is_written_once_in_the_clear(tmp_path):
    store = ScoreStore(str(tmp_path))
    store.declare(FINGERPRINT, {"kind": "rewards", "dtype": "float32"})
    store.declare(FINGERPRINT, {"kind": "other"})
    text = (tmp_path / "scores" / FINGERPRINT / "scorer.json").read_text()
    assert json.loads(text) == {"kind": "rewards", "dtype": "float32"}

"""Rows that another unit has, against a dictionary: every one is found, none is taken for another, none is lost."""

import tempfile
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mapjob.corpus.units import Unit
from mapjob.pipeline.reuse import take_stored
from mapjob.pipeline.stages import Todo
from mapjob.store.score_store import ScoreStore

# Keys that share their first half are told apart by the other one.
HALVES = [b"\x00" * 8, b"\x01" + b"\x00" * 7, b"\xff" * 8]
KEYS = [first + second for first in HALVES for second in HALVES]
keys = st.lists(st.sampled_from([*KEYS, None]), min_size=1, max_size=8)
SCORER: Any = SimpleNamespace(name="policy", fingerprint="policy")


def value_of(key: bytes) -> float:
    return float(KEYS.index(key) + 1)


def put(store: ScoreStore, fingerprint: str, unit: str, row_keys: list[bytes | None]) -> None:
    columns = {
        "row": pa.array(range(len(row_keys)), pa.int32()),
        "row_key": pa.array(row_keys, pa.binary(16)),
        "logps": pa.array([None if key is None else [value_of(key)] for key in row_keys], pa.list_(pa.float64())),
        "reason": pa.array([None if key else "null_field" for key in row_keys], pa.string()),
        "detail": pa.array([None if key else f"of {unit}" for key in row_keys], pa.string()),
    }
    if fingerprint == "records":
        columns = {name: columns[name] for name in ("row_key", "reason", "detail")}
    store.commit(fingerprint, unit, pa.table(columns))


@example([[KEYS[0]]], [[None]])
@settings(max_examples=150)
@given(st.lists(keys, max_size=4), st.lists(keys, min_size=1, max_size=4))
def test_rows_are_taken_as_a_dictionary_would(before: list[list[bytes | None]], now: list[list[bytes | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ScoreStore(folder)
        for i, unit in enumerate(before):
            put(store, "policy", f"old-{i}", unit)
        for i, unit in enumerate(now):
            put(store, "records", f"new-{i}", unit)
        known = {key for unit in before for key in unit if key is not None}
        todo = [Todo(Unit(f"new-{i}", "file", 0, len(unit)), ("policy",)) for i, unit in enumerate(now)]
        put(store, "policy", "of-this-run", [KEYS[0]])
        left, receipts = take_stored(
            todo, [SCORER], "records", store, {"policy": {f"old-{i}" for i in range(len(before))}}
        )

        any_hit = any(key in known for unit in now for key in unit)
        is_complete = [any_hit and all(key is None or key in known for key in unit) for unit in now]
        assert [receipt.unit_id for receipt in receipts] == [f"new-{i}" for i, done in enumerate(is_complete) if done]
        assert [item.unit.id for item in left] == [f"new-{i}" for i, done in enumerate(is_complete) if not done]
        for i, unit in enumerate(now):
            if is_complete[i]:
                table = store.read("policy", f"new-{i}")
                assert table["row"].to_pylist() == list(range(len(unit)))
                assert table["row_key"].to_pylist() == unit
                assert table["logps"].to_pylist() == [None if key is None else [value_of(key)] for key in unit]
                assert table["detail"].to_pylist() == [None if key else f"of new-{i}" for key in unit]
        for item in left:
            unit = now[int(item.unit.id.removeprefix("new-"))]
            stored = item.stored.get("policy")
            rows = [] if stored is None else stored["row"].to_pylist()
            assert rows == [row for row, key in enumerate(unit) if key in known]
            assert item.rows_to_score("policy").tolist() == [row for row, key in enumerate(unit) if key not in known]
            if stored is not None:
                assert stored["logps"].to_pylist() == [[value_of(key)] for row, key in enumerate(unit) if row in rows]
            # The block carries all of it.
            again = Todo.of(pa.Table.from_pylist([item.row]))
            assert (again.unit, again.missing, again.stored.keys()) == (item.unit, item.missing, item.stored.keys())

"""Columns of every type: text of any kind is read, what holds no text is refused when the run is planned."""

import datetime

import pyarrow as pa
import pytest

from mapjob.config.input import Input
from mapjob.corpus.plan import make_plan
from mapjob.errors import InputError
from tests.bad_inputs.conftest import Run, pairs, write

TEXT = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "string_view": pa.string_view(),
}


@pytest.mark.parametrize("kind", TEXT)
def test_text_of_any_kind_gives_the_same_selection(run: Run, kind):
    table = pairs(20).append_column("source", pa.array([f"s {i % 3}" for i in range(20)]))
    outcome = run(table.cast(pa.schema([(name, TEXT[kind]) for name in table.column_names])))
    assert outcome.errors == []
    rows = {row["source"]: row for row in outcome.selected.select(["source"]).to_pylist()}
    assert sorted(rows) == ["s 0", "s 1", "s 2"]
    texts = [[row[name][0]["content"] for name in table.column_names[:3]] for row in outcome.selected.to_pylist()]
    assert sorted(texts) == sorted(list(row.values()) for row in pairs(20).to_pylist())


def test_shards_may_differ_in_the_width_of_strings_and_in_views(run: Run):
    """A column of nulls alone has no type at all; its rows are null."""
    wide = pairs(4, 4).cast(pa.schema([(name, pa.large_string()) for name in ("prompt", "chosen", "rejected")]))
    views = pairs(4, 8).cast(pa.schema([(name, pa.string_view()) for name in ("prompt", "chosen", "rejected")]))
    nulls = pairs(2, 12).set_column(1, "chosen", pa.nulls(2))
    outcome = run(pairs(4), wide, views, nulls)
    assert (outcome.manifest["counts"]["ranked"], list(outcome.reasons.values())) == (12, ["null_field"] * 2)


def test_views_inside_of_other_types(run: Run):
    view = pa.string_view()
    table = pairs(3).append_column("tags", pa.array([["a"], None, ["b", "c"]], pa.large_list(view)))
    table = table.append_column("bytes", pa.array([b"\xff", None, b"x"], pa.binary_view()))
    table = table.append_column("facts", pa.array([[("k", "v")], [], None], pa.map_(view, view)))
    outcome = run(table)
    selected = {row["prompt"][0]["content"]: row for row in outcome.selected.to_pylist()}
    for row in table.to_pylist():
        assert {name: selected[row["prompt"]][name] for name in table.column_names[3:]}.items() <= row.items()


def test_types_that_arrow_knows_by_itself_come_through(run: Run):
    ids = pa.array([bytes([i] * 16) for i in range(3)], pa.uuid())
    table = pairs(3).append_column("uuid", ids).append_column("facts", pa.array(['{"a": 1}'] * 3, pa.json_()))
    outcome = run(table)
    assert set(outcome.selected["uuid"].to_pylist()) == set(ids.to_pylist())
    assert outcome.selected["facts"].to_pylist() == ['{"a": 1}'] * 3


WRONG = {
    "numbers": [1, 2, 3],
    "fractions": [0.5, float("nan"), None],
    "truth values": [True, False, None],
    "bytes": [b"a", b"b", b"c"],
    "dates": [datetime.date(2026, 1, 1)] * 3,
    "categories of numbers": pa.array([1, 1, 2]).dictionary_encode(),
    "json": pa.array(['"text"'] * 3, pa.json_()),
}


@pytest.mark.parametrize("reading", [None, {"prompt": ["prompt"], "sides": ["chosen", "rejected"]}])
@pytest.mark.parametrize("name", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_column_that_holds_no_text_is_refused(tmp_path, kind, name, reading):
    values = WRONG[kind] if isinstance(WRONG[kind], pa.Array) else pa.array(WRONG[kind])
    table = pairs(3)
    folder = write(tmp_path / "corpus", table.set_column(table.column_names.index(name), name, values))
    with pytest.raises(InputError, match=f"the column '{name}' is of the type") as caught:
        make_plan(Input(path=str(folder), reading=reading), True, 100)
    assert caught.value.where.endswith("part-00000.parquet")
    assert caught.value.exit_code == 3


def test_the_wrong_column_named_in_the_run_file(tmp_path):
    folder = write(tmp_path / "corpus", pairs(3).append_column("score", pa.array([1.0, 2.0, 3.0])))
    with pytest.raises(InputError, match="'score' is of the type"):
        make_plan(Input(path=str(folder), reading={"sides": ["score", "rejected"]}), True, 100)


def test_a_wrong_type_in_a_later_shard_is_named_with_its_file(tmp_path):
    numbers = pairs(3).set_column(0, "prompt", pa.nulls(3))
    good = write(tmp_path / "corpus", pairs(3), numbers)
    assert make_plan(Input(path=str(good)), True, 100).num_rows == 6
    bad = write(tmp_path / "other", numbers, pairs(3).set_column(0, "prompt", pa.array([1, 2, 3])))
    with pytest.raises(InputError, match="int64") as caught:
        make_plan(Input(path=str(bad)), True, 100)
    assert caught.value.where.endswith("part-00001.parquet")

"""Further keys of messages from Arrow types, and values as they come back from a file of a type."""

import pyarrow as pa
import pytest

from mapjob.corpus.message_fields import as_loaded, further_keys, with_keys_of
from mapjob.corpus.records import Record
from mapjob.errors import InputError, RowError

TEXT = pa.string()
MESSAGE = {"role": TEXT, "content": TEXT, "name": TEXT, "reasoning_content": TEXT}
CALL = pa.struct({"function": pa.struct({"name": TEXT, "arguments": pa.struct({"a": pa.int64()})})})


def keys(kind: pa.DataType, *filled: str) -> dict[str, pa.DataType]:
    found = further_keys(pa.schema({"chosen": kind, "source": TEXT}), ["chosen"], frozenset(filled))
    return dict(zip(found.names, found.types))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.struct(MESSAGE)),
        pa.large_list(pa.struct(MESSAGE)),
        pa.struct(MESSAGE),
        pa.list_(pa.list_(pa.struct(MESSAGE))),
        pa.struct({name: pa.list_(kind) for name, kind in MESSAGE.items()}),
        pa.list_(pa.struct({"from": TEXT, "value": TEXT, "name": TEXT, "reasoning_content": TEXT})),
        pa.list_(pa.struct(MESSAGE | {"content": pa.list_(pa.struct({"type": TEXT, "text": TEXT}))})),
        pa.list_(pa.struct(MESSAGE | {"name": pa.dictionary(pa.int32(), TEXT)})),
    ],
    ids=str,
)
def test_keys_of_every_form_of_messages(kind):
    assert keys(kind, "chosen.role", "chosen.content", "chosen.name") == {"name": TEXT}
    assert list(keys(kind, "chosen.reasoning_content", "chosen.name")) == ["name", "reasoning_content"]
    assert keys(kind) == {}


@pytest.mark.parametrize("kind", [TEXT, pa.list_(TEXT), pa.list_(pa.struct({"text": TEXT, "model": TEXT})), pa.null()])
def test_what_holds_no_messages_has_no_keys(kind):
    assert keys(kind, "chosen", "chosen.text", "chosen.model") == {}


def test_a_key_is_in_use_if_one_of_its_leaves_is():
    kind = pa.list_(pa.struct({"role": TEXT, "content": TEXT, "tool_calls": pa.list_(CALL), "tool": TEXT}))
    assert keys(kind, "chosen.tool_calls.function.arguments.a") == {"tool_calls": pa.list_(CALL)}
    assert keys(kind, "chosen.tool") == {"tool": TEXT}


def test_role_and_content_may_have_other_names():
    kind = pa.list_(pa.struct(dict.fromkeys(("from", "role", "value", "content", "text"), TEXT)))
    assert keys(kind, "chosen.from", "chosen.value") == {}
    assert keys(kind, "chosen.role", "chosen.text") == {}
    assert list(keys(kind, "chosen.role", "chosen.from", "chosen.value", "chosen.content")) == ["from", "value"]


def test_keys_of_messages_that_were_json_are_those_of_the_first_rows():
    turn = {"role": "user", "content": "p", "name": "Ann", "tokens": 3, "meta": {"a": [1.5]}, "calls": []}
    record = Record([turn], [[{"role": "assistant", "content": "c", "meta": {"b": "x"}}], []])
    fields = with_keys_of([record, Record("p", ["c", "r"])], pa.schema({"name": TEXT}))
    meta = pa.struct({"a": pa.list_(pa.float64()), "b": TEXT})
    assert fields == pa.schema({"meta": meta, "name": TEXT, "tokens": pa.int64()})
    mixed = Record([{**turn, "meta": "text"}], record.completions)
    with pytest.raises(InputError, match="several types"):
        with_keys_of([record, mixed], pa.schema([]))


def test_types_are_unified_over_columns():
    sides = [pa.list_(pa.struct({"role": TEXT, "content": TEXT, "meta": pa.struct({name: TEXT})})) for name in "ab"]
    schema = pa.schema({"chosen": sides[0], "info": pa.struct({"rejected": sides[1]})})
    filled = frozenset({"chosen.meta.a", "info.rejected.meta.b"})
    found = further_keys(schema, ["chosen", "info.rejected", "missing", "info.missing"], filled)
    assert found == pa.schema({"meta": pa.struct({"a": TEXT, "b": TEXT})})


def test_a_key_of_two_types_is_refused_by_name():
    kinds = [
        pa.list_(pa.struct({"role": TEXT, "content": TEXT, "meta": kind})) for kind in (TEXT, pa.struct({"a": TEXT}))
    ]
    schema = pa.schema({"chosen": kinds[0], "rejected": kinds[1]})
    with pytest.raises(InputError, match=r"several types.*meta"):
        further_keys(schema, ["chosen", "rejected"], frozenset({"chosen.meta", "rejected.meta.a"}))


def test_a_value_as_loaded_is_what_arrow_gives_back():
    kind = pa.list_(pa.struct({"b": pa.float64(), "a": pa.list_(pa.struct({"x": TEXT, "y": pa.bool_()})), "c": TEXT}))
    for value in (None, [], [{"a": [{"y": True}, None], "b": 1}], [{"c": "text"}, None]):
        loaded = as_loaded(value, kind)
        assert repr(loaded) == repr(pa.array([value], kind).to_pylist()[0])


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"a": "x", "z": 1}, pa.struct({"a": TEXT})),
        ({"a": {"b": 1}}, pa.struct({"a": TEXT})),
        ("text", pa.struct({"a": TEXT})),
        ([1], TEXT),
        ([1, "x"], pa.list_(pa.int64())),
        (1.5, pa.int64()),
        (True, pa.int64()),
        (1, TEXT),
    ],
    ids=str,
)
def test_a_value_of_which_a_type_would_lose_something_is_refused(value, kind):
    with pytest.raises(RowError):
        as_loaded(value, kind)
    assert as_loaded({"a": "x", "z": None, "y": []}, pa.struct({"a": TEXT})) == {"a": "x"}

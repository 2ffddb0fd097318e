"""From rows of plain values to an Arrow table, with types that hold every value as it is.

Strings stay strings whatever they look like: a text is never read as a date or a number.
"""

import json
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

import pyarrow as pa

from mapjob.corpus.footers import leaves
from mapjob.errors import InputError

Row = dict[str, Any]
BATCH_ROWS = 1000
MOST_KEYS = 5000  # of the objects of one column: each is a column of the Parquet file
MEND = "mend the file, or take it out of input.path"


def to_table(rows: Iterable[Row], where: str) -> pa.Table:
    """Rows as a table: a column for each key, in the order in which they come; what a row lacks is null.

    Raises InputError for a column whose values are of two kinds, by its first row of the second.
    """
    rows, start = iter(rows), 0
    kinds: dict[str, pa.DataType] = {}
    parts: list[tuple[int, dict[str, pa.Array]]] = []
    while batch := list(islice(rows, BATCH_ROWS)):
        arrays = {}
        for name in dict.fromkeys(name for row in batch for name in row):
            values, kind = [row.get(name) for row in batch], kinds.get(name, pa.null())
            try:
                arrays[name] = _array_of(values)
                kinds[name] = _join(kind, arrays[name].type)
            except (pa.ArrowException, OverflowError) as error:
                raise _odd_row(error, kind, values, name, where, start) from None
            if len(leaves([pa.field(name, kinds[name])])) > MOST_KEYS:
                what = f"the column {name!r} holds objects of more than {MOST_KEYS:,} different keys"
                raise InputError(what, f"{where}, row {start}", "write them as text (JSON in a string)")
        parts.append((len(batch), arrays))
        start += len(batch)
    try:
        schema = pa.schema(kinds)
    except UnicodeEncodeError:
        raise InputError("the name of a column is not UTF-8", where, "rename it") from None
    batches = []
    for length, arrays in parts:
        columns = [
            _cast(arrays[name], kind) if name in arrays else pa.nulls(length, kind) for name, kind in kinds.items()
        ]
        batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
    return pa.Table.from_batches(batches, schema)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    cast = array.cast(kind)
    try:
        cast.validate()
    except pa.ArrowInvalid:  # pyarrow 26 does not get lists of nothing but nulls right
        return pa.array(array.to_pylist(), kind)
    return cast


def _join(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type of both: null gives way, integers become floats, structs get each other's fields."""
    fields = [pa.schema([("it", kind)]) for kind in (one, other)]
    return pa.unify_schemas(fields, promote_options="permissive").field(0).type


def _array_of(values: list[Any]) -> pa.Array:
    try:
        array = pa.array(values)
    except UnicodeEncodeError:
        array = _with_broken_text(values)
    except pa.ArrowException:
        others = [_without_empty(value) for value in values]
        if others == values:
            raise
        return _array_of(others)
    return _array_of([_without_empty(value) for value in values]) if "struct<>" in str(array.type) else array


def _without_empty(value: Any) -> Any:
    """With null in place of objects without keys, which Parquet does not have."""
    if isinstance(value, list):
        return [_without_empty(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _without_empty(inner) for key, inner in value.items()} or None
    return value


def _odd_row(error: Exception, kind: pa.DataType, values: list[Any], name: str, where: str, start: int) -> InputError:
    """What is wrong with a column, by the first row that does not go with those before it."""
    for row, value in enumerate(values, start):
        at = f"{where}, row {row}"
        try:
            own = _array_of([value]).type
        except OverflowError:
            return InputError(f"the column {name!r} holds an integer of more than 64 bits", at, "write it as text")
        except pa.ArrowException:
            what = f"the column {name!r} holds values of several kinds in one list"
            return InputError(what, at, f"give all of them one kind: {MEND}")
        try:
            kind = _join(kind, own)
        except pa.ArrowException:
            path, before, here = _difference(kind, own, name)
            what = f"the column {path!r} holds {kind_of(here)} here and {kind_of(before)} in rows before"
            return InputError(what, at, f"give the column one kind of value: {MEND}")
    return InputError(f"the column {name!r} cannot be read: {error}", where, MEND)


def _difference(one: pa.DataType, other: pa.DataType, name: str) -> tuple[str, pa.DataType, pa.DataType]:
    """The innermost part in which two types do not go together."""
    if pa.types.is_list(one) and pa.types.is_list(other):
        return _difference(one.value_type, other.value_type, name)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        for field in other:
            before = (
                one.field(one.get_field_index(field.name)).type if one.get_field_index(field.name) >= 0 else field.type
            )
            try:
                _join(before, field.type)
            except pa.ArrowException:
                return _difference(before, field.type, f"{name}.{field.name}")
    return name, one, other


def kind_of(kind: pa.DataType) -> str:
    """A type in plain words."""
    if pa.types.is_list(kind):
        return "a list"
    if pa.types.is_struct(kind):
        return "an object"
    return {"string": "text", "bool": "true or false"}.get(str(kind), "a number")


# Text that is not UTF-8 (a lone surrogate, foreign bytes) is kept as bytes that no reader takes for text: its row alone
# is refused.

_SURROGATES = re.compile("[\ud800-\udfff]")
_BROKEN = "\ud800".encode("utf-8", "surrogatepass")


def _with_broken_text(values: list[Any]) -> pa.Array:
    everything = json.dumps(values, ensure_ascii=False)
    stand_in = next(mark for mark in map(chr, range(0xFDD0, 0xFDF0)) if mark not in everything)  # no characters
    return _break(pa.array([_replace(value, stand_in) for value in values]), stand_in.encode())


def _replace(value: Any, stand_in: str) -> Any:
    if isinstance(value, str):
        return _SURROGATES.sub(stand_in, value)
    if isinstance(value, list):
        return [_replace(inner, stand_in) for inner in value]
    if isinstance(value, dict):
        return {_replace(key, stand_in): _replace(inner, stand_in) for key, inner in value.items()}
    return value


def _break(array: pa.Array, stand_in: bytes) -> pa.Array:
    kind, buffers = array.type, array.buffers()
    if pa.types.is_string(kind):
        text = pa.py_buffer((buffers[2] or pa.py_buffer(b"")).to_pybytes().replace(stand_in, _BROKEN))
        return pa.Array.from_buffers(kind, len(array), [*buffers[:2], text])
    if pa.types.is_list(kind):
        return pa.Array.from_buffers(kind, len(array), buffers[:2], children=[_break(array.values, stand_in)])
    if pa.types.is_struct(kind):
        fields = [_break(array.field(index), stand_in) for index in range(kind.num_fields)]
        return pa.Array.from_buffers(kind, len(array), buffers[:1], children=fields)
    return array

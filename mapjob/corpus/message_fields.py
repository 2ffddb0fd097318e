"""Further keys of messages (reasoning_content, name, tool_calls, …): their Arrow types, over columns and files."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from mapjob.corpus.cells import WHO, WORDS
from mapjob.corpus.footers import without_views
from mapjob.corpus.records import Record, is_empty
from mapjob.errors import InputError, Reason, RowError

DO = "write the key as one type, such as JSON in a string, in every message"


def further_keys(schema: pa.Schema, columns: Sequence[str], filled: frozenset[str]) -> pa.Schema:
    """The further keys of messages that are in use, sorted, each with its type over all columns.

    columns: paths that may hold messages (a list of structs, one struct, a struct of lists). filled: leaves that hold a
    value in some row, as paths without list levels, such as `chosen.tool_calls.function.name`. Raises InputError if a
    key is of types that no one column can hold.
    """
    fields_of_all = pa.schema([])
    for column in columns:
        used = {path for leaf in filled if leaf.startswith(f"{column}.") for path in _prefixes(leaf)}
        keys = {name: kind for name, kind in _fields(_type_of(schema, column)) if f"{column}.{name}" in used}
        for names in (WHO, WORDS):
            keys.pop(next(filter(keys.__contains__, names), ""), None)
        try:
            fields_of_all = pa.unify_schemas([fields_of_all, pa.schema(keys)], promote_options="permissive")
        except pa.ArrowException as error:
            raise InputError(f"a key of messages has several types: {error}", f"column {column}", DO) from None
    return without_views(pa.schema(sorted(fields_of_all, key=lambda field: field.name)))


def with_keys_of(records: Sequence[Record], fields: pa.Schema) -> pa.Schema:
    """The same with the further keys of these records that no Arrow type has, since their messages were JSON."""
    values: dict[str, list[Any]] = {}
    for record in records:
        for text in (record.prompt, *record.completions):
            for turn in text if isinstance(text, list) else ():
                for key in turn.keys() - {"role", "content", *fields.names}:
                    if not is_empty(turn[key]):
                        values.setdefault(key, []).append(turn[key])
    try:
        inferred = [pa.field(key, pa.infer_type(values[key])) for key in values]
    except pa.ArrowException as error:
        raise InputError(f"a key of messages has several types: {error}", "messages as JSON", DO) from None
    return pa.schema(sorted([*fields, *inferred], key=lambda field: field.name))


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _type_of(schema: pa.Schema, path: str) -> pa.DataType:
    """Of a column, or of a field inside one; null if there is none."""
    if path in schema.names:
        return schema.field(path).type
    name, *inside = path.split(".")
    kind = schema.field(name).type if name in schema.names else pa.null()
    for key in inside:
        kind = _inside_lists(kind)
        kind = kind.field(key).type if pa.types.is_struct(kind) and kind.get_field_index(key) >= 0 else pa.null()
    return kind


def _fields(kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """The keys of a type that holds messages, with their types; none of any other type."""
    kind = _inside_lists(kind)
    if not pa.types.is_struct(kind):
        return
    fields = {field.name: field.type for field in kind}
    who = next((fields[name] for name in WHO if name in fields), None)
    if who is None:
        return
    is_of_lists = _is_list(who)
    for name, inner in fields.items():
        inner = inner.value_type if is_of_lists and _is_list(inner) else inner
        yield name, inner.value_type if pa.types.is_dictionary(inner) else inner


def _inside_lists(kind: pa.DataType) -> pa.DataType:
    while _is_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind


def _is_list(kind: pa.DataType) -> bool:
    kinds = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    views = pa.types.is_list_view, pa.types.is_large_list_view
    return any(is_kind(kind) for is_kind in (*kinds, *views))


def as_loaded(value: Any, kind: pa.DataType) -> Any:
    """A value as it is once it was written as this type and read again: a struct with every field, in their order.

    Raises RowError for a value that the type cannot hold, of which it would lose something.
    """
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if isinstance(value, dict) and pa.types.is_struct(kind):
        if all(is_empty(value[key]) for key in value.keys() - set(kind.names)):
            return {field.name: as_loaded(value.get(field.name), field.type) for field in kind}
    elif isinstance(value, list) and _is_list(kind):
        return [as_loaded(item, kind.value_type) for item in value]
    elif isinstance(value, int) and not isinstance(value, bool) and pa.types.is_floating(kind):
        return float(value)
    elif value is None or _holds(kind, value):
        return value
    raise RowError(Reason.BAD_MESSAGES, "an entry of a message or of a tool is of another type than in other rows")


def _holds(kind: pa.DataType, value: Any) -> bool:
    """Whether a type holds such plain values; any type may hold what JSON has not (times, bytes)."""
    if isinstance(value, bool):
        return pa.types.is_boolean(kind)
    if isinstance(value, int | float):
        return pa.types.is_floating(kind) or (isinstance(value, int) and pa.types.is_integer(kind))
    if isinstance(value, str):
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return not isinstance(value, dict | list)

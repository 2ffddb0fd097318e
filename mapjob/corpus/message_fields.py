"""Further keys of messages (reasoning_content, name, tool_calls, …): their Arrow types, over columns and files."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from mapjob.corpus.files import without_views
from mapjob.errors import InputError

OF_EVERY_MESSAGE = {"role", "content", "from", "value"}


def further_keys(schema: pa.Schema, columns: Sequence[str], filled: frozenset[str]) -> pa.Schema:
    """The further keys of messages that are in use, sorted, each with its type over all columns.

    columns: paths that may hold messages (a list of structs, one struct, a struct of lists). filled: leaves that hold a
    value in some row, as paths without list levels, such as `chosen.tool_calls.function.name`. Raises InputError if a
    key is of types that no one column can hold.
    """
    types: dict[str, pa.DataType] = {}
    for column in columns:
        for key, kind in _keys(_type_of(schema, column)):
            path = f"{column}.{key}"
            if not any(leaf == path or leaf.startswith(f"{path}.") for leaf in filled):
                continue
            both = [pa.schema({key: kind}), pa.schema({key: types.get(key, kind)})]
            try:
                (types[key],) = pa.unify_schemas(both[::-1], promote_options="permissive").types
            except pa.ArrowException as error:
                do = "write the key as one type, such as JSON in a string, in every column"
                raise InputError(f"the key {key!r} of messages has several types: {error}", path, do) from None
    return without_views(pa.schema(sorted(types.items())))


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


def _keys(kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """The further keys of a type that holds messages, with their types; none of any other type."""
    kind = _inside_lists(kind)
    if not pa.types.is_struct(kind):
        return
    fields = {field.name: field.type for field in kind}
    who = fields.get("role", fields.get("from"))
    if who is None:
        return
    is_of_lists = _is_list(who)
    for name, inner in fields.items():
        if name not in OF_EVERY_MESSAGE:
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
    """A value as it is once it was written as this type and read again: a struct with every field, in their order."""
    if isinstance(value, dict) and pa.types.is_struct(kind):
        return {field.name: as_loaded(value.get(field.name), field.type) for field in kind}
    if isinstance(value, list) and _is_list(kind):
        return [as_loaded(item, kind.value_type) for item in value]
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and pa.types.is_floating(kind) else value

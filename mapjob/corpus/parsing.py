"""JSON, CSV and Arrow files as Arrow tables: every text as the file has it, every row in its place.

Types come from the values: strings of JSON stay strings whatever they look like; a column of a CSV holds numbers only
if every cell is written as its number would be.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa

from mapjob.corpus.footers import BLIND_KEY, NAME_KEY, check_extensions, without_views
from mapjob.corpus.listing import Form
from mapjob.errors import InputError

Row = dict[str, Any]
BATCH_ROWS = 1000
MEND = "mend the file, or take it out of input.path"


def parse(file: BinaryIO, form: Form, where: str) -> pa.Table:
    """The rows of an open file, in order. Raises InputError that names a line or a row, ArrowException for bad Arrow."""
    if form == "arrow":
        return _arrow(file, where)
    if form in ("csv", "tsv"):
        return _with_numbers(to_table(_csv_rows(file, "," if form == "csv" else "\t", where), where))
    return to_table(_json_rows(file, where), where)


# JSON

_SPACE = " \t\r\n"
_SPACES = re.compile(f"[{_SPACE}]*")


def _json_rows(file: BinaryIO, where: str) -> Iterator[Row]:
    """Rows of one object a line, or of one array of objects."""
    lines = enumerate(file, 1)
    is_first = True
    for number, line in lines:
        text = _text(line, number)
        if not text.strip(_SPACE):
            continue
        if is_first and text.lstrip(_SPACE).startswith("["):
            rest = "".join(_text(line, number) for number, line in lines)
            yield from _array(text + rest, number, where)
            return
        is_first = False
        try:
            value = _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            raise _malformed(error, number, where) from None
        yield _as_row(value, number, where)


def _text(line: bytes, number: int) -> str:
    """Bytes that are no UTF-8 become surrogates, which `to_table` keeps in their row."""
    return line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")


def _array(text: str, line: int, where: str) -> Iterator[Row]:
    """The objects of an array. line: of the text's first character."""
    counted, position = 0, _skip_space(text, text.index("[") + 1)
    is_over = text[position : position + 1] == "]"
    while not is_over:
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, end = _DECODER.raw_decode(text, position)
            position = _skip_space(text, end)
            mark = text[position : position + 1]
            if mark not in (",", "]"):
                raise ValueError("neither a comma nor the end of the array follows")
        except (ValueError, RecursionError) as error:
            raise _malformed(error, line, where) from None
        yield _as_row(value, line, where)
        is_over = mark == "]"
        position = position if is_over else _skip_space(text, position + 1)
    if text[position + 1 :].strip(_SPACE):
        raise _malformed(ValueError("something follows the end of the array"), line, where)


def _skip_space(text: str, position: int) -> int:
    found = _SPACES.match(text, position)
    return found.end() if found else position


def _once(pairs: list[tuple[str, Any]]) -> Row:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _as_row(value: Any, line: int, where: str) -> Row:
    if not isinstance(value, dict):
        raise _malformed(ValueError(f"{_word(value)}, not an object with columns"), line, where)
    return value


def _malformed(error: Exception, line: int, where: str) -> InputError:
    why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    do = f"a JSON file holds one object a line, or one array of objects: {MEND}"
    return InputError(f"malformed JSON: {why}", f"{where}, line {line}", do)


# CSV


def _csv_rows(file: BinaryIO, delimiter: str, where: str) -> Iterator[Row]:
    """Rows of texts, by a header. Quoted cells may hold newlines."""
    csv.field_size_limit(2**31 - 1)
    text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        # pandas writes its index under no name, and calls it so when it reads it.
        names = [name or f"Unnamed: {index}" for index, name in enumerate(next(reader, []))]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"two columns are called {twice!r}", where, "rename one of them")
        for cells in reader:
            if len(cells) == len(names):
                yield dict(zip(names, cells))
            elif cells:
                what = f"{len(cells)} cells in a row, {len(names)} in the header"
                raise InputError(what, f"{where}, line {reader.line_num}", MEND)
    except csv.Error as error:
        raise InputError(f"malformed CSV: {error}", f"{where}, line {reader.line_num}", MEND) from None
    finally:
        text.detach()


_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,14}")
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]+")


def _with_numbers(table: pa.Table) -> pa.Table:
    """Columns of texts; those that are written as numbers throughout as numbers, an empty cell of them as null."""
    for index, name in enumerate(table.column_names):
        table = table.set_column(index, name, _numbers(table.column(index)))
    return table


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = pa.null()
    for chunk in column.chunks:
        for scalar in chunk:
            cell = scalar.as_buffer().to_pybytes().decode(errors="replace")
            if not cell:
                continue
            if kind != pa.float64() and _INTEGER.fullmatch(cell):
                kind = pa.int64()
            elif _INTEGER.fullmatch(cell) or (_DECIMAL.fullmatch(cell) and repr(float(cell)) == cell):
                kind = pa.float64()
            else:
                return column
    cells = [[cell or None for cell in chunk.to_pylist()] for chunk in column.chunks]
    return pa.chunked_array([pa.array(chunk, pa.string()).cast(kind) for chunk in cells], kind)


# From rows to a table


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
        parts.append((len(batch), arrays))
        start += len(batch)
    try:
        schema = pa.schema(kinds)
    except UnicodeEncodeError:
        raise InputError("the name of a column is not UTF-8", where, "rename it") from None
    batches = []
    for length, arrays in parts:
        columns = [arrays[name].cast(kind) if name in arrays else pa.nulls(length, kind) for name, kind in kinds.items()]
        batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
    return pa.Table.from_batches(batches, schema)


def _join(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type of both: null gives way, integers become floats, structs get each other's fields."""
    fields = [pa.schema([("it", kind)]) for kind in (one, other)]
    return pa.unify_schemas(fields, promote_options="permissive").field(0).type


def _array_of(values: list[Any]) -> pa.Array:
    try:
        array = pa.array(values)
    except UnicodeEncodeError:
        array = _with_broken_text(values)
    # Parquet has no objects without keys.
    return _array_of([_without_empty(value) for value in values]) if "struct<>" in str(array.type) else array


def _without_empty(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_empty(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _without_empty(inner) for key, inner in value.items()} or None
    return value


def _odd_row(
    error: Exception, kind: pa.DataType, values: list[Any], name: str, where: str, start: int
) -> InputError:
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
            what = f"the column {path!r} holds {_kind(here)} here and {_kind(before)} in rows before"
            return InputError(what, at, f"give the column one kind of value: {MEND}")
    return InputError(f"the column {name!r} cannot be read: {error}", where, MEND)


def _difference(one: pa.DataType, other: pa.DataType, name: str) -> tuple[str, pa.DataType, pa.DataType]:
    """The innermost part in which two types do not go together."""
    if pa.types.is_list(one) and pa.types.is_list(other):
        return _difference(one.value_type, other.value_type, name)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        for field in other:
            before = one.field(one.get_field_index(field.name)).type if one.get_field_index(field.name) >= 0 else field.type
            try:
                _join(before, field.type)
            except pa.ArrowException:
                return _difference(before, field.type, f"{name}.{field.name}")
    return name, one, other


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return "a list"
    if pa.types.is_struct(kind):
        return "an object"
    return {"string": "text", "bool": "true or false"}.get(str(kind), "a number")


def _word(value: Any) -> str:
    return "null" if value is None else _kind(pa.array([value if not isinstance(value, list) else []]).type)


# Text that is not UTF-8 (a lone surrogate, or foreign bytes) is kept as bytes that no reader takes for text, so that its
# row alone is refused.

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


# Arrow

_FILE_START, _MESSAGE_START, _END = b"ARROW1\0\0", b"\xff" * 4, b"\xff" * 4 + b"\0" * 4
_LONGEST_SCHEMA = 64 << 20


def _arrow(file: BinaryIO, where: str) -> pa.Table:
    """An Arrow file or stream. The one is the other between marks. Nothing in it is called an extension: see footers."""
    start = file.read(8)
    if start == _FILE_START:
        start = file.read(8)
    length = int.from_bytes(start[4:], "little")
    if start[:4] != _MESSAGE_START or length > _LONGEST_SCHEMA:
        raise pa.ArrowInvalid("it does not begin as Arrow does")
    blinded = _Behind(start + file.read(length).replace(NAME_KEY, BLIND_KEY), file)
    with pa.ipc.open_stream(pa.PythonFile(blinded, "r")) as reader:
        check_extensions(reader.schema, where)
        table = pa.Table.from_batches(list(reader), reader.schema)
    if blinded.tail != _END:
        raise pa.ArrowInvalid("it does not end as Arrow does, so it is cut off")
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key == b"huggingface"}
    return table.cast(without_views(table.schema)).replace_schema_metadata(metadata)


class _Behind:
    """A file with other bytes at its start; `tail` is the last of what was read."""

    closed = False

    def __init__(self, start: bytes, file: BinaryIO):
        self._start, self._file, self.tail = start, file, b""

    def read(self, size: int) -> bytes:
        data, self._start = self._start[:size], self._start[size:]
        if len(data) < size:
            data += self._file.read(size - len(data))
        self.tail = (self.tail + data[-8:])[-8:]
        return data

    def close(self) -> None:
        pass

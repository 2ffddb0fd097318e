"""The rows of JSON and CSV files, as they stand there."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from mapjob.corpus.row_types import MEND, Row
from mapjob.errors import InputError

# JSON

_SPACE = " \t\r\n"
_SPACES = re.compile(f"[{_SPACE}]*")


def json_rows(file: BinaryIO, where: str) -> Iterator[Row]:
    """Rows of one object a line, or of one array of objects. Raises InputError that names the line."""
    lines = enumerate(file, 1)
    is_first, alone = True, None
    for number, line in lines:
        text = _text(line, number)
        if not text.strip(_SPACE):
            continue
        if is_first and text.lstrip(_SPACE).startswith("["):
            rest = "".join(_text(line, number) for number, line in lines)
            yield from _array(text + rest, number, where)
            return
        try:
            row = _as_row(_DECODER.decode(text), number, where)
        except (ValueError, RecursionError) as error:
            raise _malformed(error, number, where) from None
        alone, is_first = row if is_first else None, False
        yield row
    if alone is not None and _is_of_columns(alone):
        what = "this file holds one object with a list for each column, not rows"
        do = 'write one object a line (pandas: to_json(path, orient="records", lines=True))'
        raise InputError(what, where, do)


def _is_of_columns(row: Row) -> bool:
    """Whether the only row of a file is rather its columns: lists of one length, or values by row number."""
    columns = list(row.values())
    if len(columns) > 1 and all(isinstance(column, list) for column in columns):
        has_messages = any(isinstance(value, dict) for column in columns for value in column)
        return len({len(column) for column in columns}) == 1 and not has_messages
    return bool(columns) and all(isinstance(column, dict) and "0" in column for column in columns)


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
        raise _malformed(ValueError("a row is no object with columns"), line, where)
    return value


def _malformed(error: Exception, line: int, where: str) -> InputError:
    why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    do = f"a JSON file holds one object a line, or one array of objects: {MEND}"
    return InputError(f"malformed JSON: {why}", f"{where}, line {line}", do)


# CSV


def csv_rows(file: BinaryIO, delimiter: str, where: str) -> Iterator[Row]:
    """Rows of texts, by a header. Quoted cells may hold newlines. Raises InputError that names the line."""
    csv.field_size_limit(2**31 - 1)
    text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        # pandas writes its index under no name, and calls it so when it reads it.
        names = [name or f"Unnamed: {index}" for index, name in enumerate(next(reader, []))]
        if len(names) == 1 and (other := next((mark for mark in ";\t|" if mark in names[0]), None)):
            raise InputError(f"the header has no {delimiter!r}, but {other!r}", where, f"write it with {delimiter!r}")
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
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")


def with_numbers(table: pa.Table) -> pa.Table:
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

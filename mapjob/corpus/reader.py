"""From a row range of a Parquet file to rows, and from rows to records; an unusable row stays as its reason."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.config import Columns
from mapjob.corpus.layouts import Layout
from mapjob.corpus.recognise import renames
from mapjob.corpus.records import Record, checked
from mapjob.corpus.remote import explained, filesystem, is_transient, retried
from mapjob.errors import InputError, Reason, RowError


def read_rows(url: str, start: int, stop: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows [start, stop) of a file, decoding only the row groups that hold them. Raises InputError with the place."""
    fs, path = filesystem(url)

    def read() -> tuple[pa.Table, int]:
        with fs.open(path, "rb") as handle:
            file = pq.ParquetFile(handle)
            groups, first = _groups(file.metadata, start, stop)
            return file.read_row_groups(groups, columns=list(columns) if columns is not None else None), first

    try:
        table, first = retried(read)
    except (pa.ArrowException, OSError) as error:
        if is_transient(error):
            raise explained(error, url, "read") from error
        raise InputError(
            f"the rows cannot be read: {str(error).strip().splitlines()[0]}",
            f"{url}, rows {start} to {stop}",
            "replace the file or take it out of input.path",
        ) from None
    table = table.slice(start - first, stop - start)
    if table.num_rows != stop - start:
        raise InputError(
            f"{table.num_rows} rows instead of {stop - start}",
            f"{url}, rows {start} to {stop}",
            "was the file replaced?",
        )
    return table


def _groups(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """(row groups that overlap [start, stop), first row of the first of them)."""
    groups, first, row = [], 0, 0
    for index in range(metadata.num_row_groups):
        rows = metadata.row_group(index).num_rows
        if row < stop and row + rows > start:
            if not groups:
                first = row
            groups.append(index)
        row += rows
    return groups, first


def renamed_rows(table: pa.Table, columns: Columns) -> list[dict[str, Any]]:
    """Rows as dicts under the layout's own column names. Raises UnicodeDecodeError for text that is not UTF-8."""
    names = renames(columns)
    # A column that has a layout's name by chance gives way to the one that the run file names.
    table = table.select([name for name in table.column_names if name not in names or name in names.values()])
    own = {name: layout_name for layout_name, name in names.items()}
    return table.rename_columns([own.get(name, name) for name in table.column_names]).to_pylist()


def read_records(table: pa.Table, layout: Layout, columns: Columns) -> list[Record | RowError]:
    """One Record for each row, in order; where there is none, the RowError that says why."""
    names = renames(columns)
    wanted = [names.get(name, name) for name in layout.columns]
    table = table.select(wanted)
    try:
        rows: list[dict[str, Any] | None] = list(renamed_rows(table, columns))
    except UnicodeDecodeError:
        rows = [_row_or_none(table.slice(index, 1), columns) for index in range(table.num_rows)]
    return [RowError(Reason.INVALID_UTF8) if row is None else _record(row, layout) for row in rows]


def _row_or_none(table: pa.Table, columns: Columns) -> dict[str, Any] | None:
    try:
        return renamed_rows(table, columns)[0]
    except UnicodeDecodeError:
        return None


def _record(row: dict[str, Any], layout: Layout) -> Record | RowError:
    try:
        return checked(layout.read(row))
    except RowError as error:
        return error

"""From a row range of a Parquet file to rows, and from rows to records; an unusable row becomes its reason."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.config.input import Columns
from mapjob.corpus.footers import read_file, read_footer, without_views
from mapjob.corpus.reading import Reading, read_record
from mapjob.corpus.records import Record, check_record
from mapjob.errors import InputError, Reason, RowError

NO_COLUMNS = Columns()
BATCH_ROWS = 1000
BUFFER_BYTES = 4 << 20  # per column, so also the size of a request to object storage


def read_rows(
    url: str,
    start: int,
    stop: int,
    columns: Sequence[str] | None = None,
    buffer_bytes: int = BUFFER_BYTES,
    size: int | None = None,
) -> pa.Table:
    """Rows [start, stop) of a file, page checksums verified if the file has them. Columns that it lacks are left out.

    Row groups that hold none of them are not read, and none is decoded beyond `stop`. size: of the
    file in bytes, if it is known. Raises InputError.
    """
    where = f"{url}, rows {start} to {stop}"
    read = lambda file: rows_of(file, read_footer(file, url), start, stop, columns, buffer_bytes)  # noqa: E731
    table = read_file(url, read, "the rows cannot be read", where, size)
    if table.num_rows != stop - start:
        raise InputError(f"{table.num_rows} rows instead of {stop - start}", where, "was the file replaced?")
    return table


def rows_of(
    file: BinaryIO,
    footer: pq.FileMetaData,
    start: int,
    stop: int,
    columns: Sequence[str] | None = None,
    buffer_bytes: int = BUFFER_BYTES,
) -> pa.Table:
    """As `read_rows`, of an open file. Raises what Arrow does."""
    # Without pre_buffer a large row group is neither fetched nor held as a whole.
    parquet = pq.ParquetFile(
        file, metadata=footer, pre_buffer=False, buffer_size=buffer_bytes, page_checksum_verification=True
    )
    table = _rows(parquet, start, stop, list(columns) if columns is not None else None)
    # Only where it must be: pyarrow 26 cannot cast a list of structs with a key of nulls alone.
    plain = without_views(table.schema)
    return table if table.schema.equals(plain) else table.cast(plain)


def _rows(file: pq.ParquetFile, start: int, stop: int, columns: list[str] | None) -> pa.Table:
    metadata = file.metadata
    edges = list(accumulate((metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)), initial=0))
    groups = [index for index, (first, end) in enumerate(pairwise(edges)) if first < stop and end > start]
    row = edges[groups[0]] if groups else 0
    batches = []
    options = {"row_groups": groups, "columns": columns, "use_threads": False}  # see store/tables.py
    size = max(1, min(BATCH_ROWS, stop - row))  # of a few first rows, no page behind theirs is fetched
    for batch in file.iter_batches(size, **options) if groups else ():
        if row + batch.num_rows > start:
            batches.append(batch.slice(max(0, start - row), stop - max(start, row)))
        row += batch.num_rows
        if row >= stop:
            break
    if batches:
        return pa.Table.from_batches(batches)
    schema = file.schema_arrow
    return schema.empty_table() if columns is None else schema.empty_table().select(columns)


def python_rows(table: pa.Table) -> list[dict[str, Any] | None]:
    """Rows as dicts; None for a row with text that is not UTF-8, which other writers than Arrow accept."""
    try:
        return table.to_pylist()
    except UnicodeDecodeError:
        if table.num_rows == 1:
            return [None]
    return [row for index in range(table.num_rows) for row in python_rows(table.slice(index, 1))]


def read_records(table: pa.Table, reading: Reading, columns: Columns = NO_COLUMNS) -> list[Record | RowError]:
    """One Record per row, in order, or the RowError that says why there is none: of its texts, its id or its group."""
    roots = {path.partition(".")[0] for path in reading.columns} | {columns.id, columns.group}
    names = [name for name in table.column_names if name in roots or name in reading.columns]
    return [
        RowError(Reason.INVALID_UTF8) if row is None else as_record(row, reading)
        for row in python_rows(table.select(names))
    ]


def as_record(row: dict[str, Any], reading: Reading) -> Record | RowError:
    """The Record of a row, or the RowError that says why there is none."""
    try:
        return check_record(read_record(row, reading))
    except RowError as error:
        return error


def reason_columns(rows: Sequence[object]) -> dict[str, pa.Array]:
    """The columns `reason` and `detail` of rows among which the unusable ones are RowErrors; null for all others."""
    bad = [row if isinstance(row, RowError) else None for row in rows]
    return {
        "reason": pa.array([error.reason.value if error else None for error in bad], pa.string()),
        "detail": pa.array([error.detail if error else None for error in bad], pa.string()),
    }

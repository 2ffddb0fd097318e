"""From a row range of a Parquet file to rows, and from rows to records; an unusable row becomes its reason."""

from bisect import bisect
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.config.input import Columns
from mapjob.corpus.footers import open_file, read_file, read_footer, retry_reading, without_views
from mapjob.corpus.reading import Reading, read_record
from mapjob.corpus.records import Record, check_record
from mapjob.errors import InputError, Reason, RowError

NO_COLUMNS = Columns()
UNREADABLE = "the rows cannot be read"
BATCH_ROWS, BATCH_BYTES = 1000, 16 << 20  # of rows that are decoded at once: whichever is less
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
    table = read_file(url, read, UNREADABLE, where, size)
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
    rows, row = OpenRows(file, footer, start, columns, buffer_bytes, stop), start
    tables = [rows.read(row, stop)]
    while tables[-1].num_rows and (row := row + tables[-1].num_rows) < stop:
        tables.append(rows.read(row, stop))
    return pa.concat_tables(tables)


class OpenRows:
    """The rows of an open Parquet file in ascending order, from the row group with `start` on.

    stop: row groups behind it are not read; by default all are. Raises what Arrow does.
    """

    def __init__(
        self,
        file: BinaryIO,
        footer: pq.FileMetaData,
        start: int,
        columns: Sequence[str] | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        stop: int | None = None,
    ):
        # Without pre_buffer a large row group is neither fetched nor held as a whole.
        parquet = pq.ParquetFile(
            file, metadata=footer, pre_buffer=False, buffer_size=buffer_bytes, page_checksum_verification=True
        )
        stop = footer.num_rows if stop is None else min(stop, footer.num_rows)
        groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
        self._edges = list(accumulate((group.num_rows for group in groups), initial=0))
        needed = [i for i, (first, end) in enumerate(pairwise(self._edges)) if first < stop and end > start]
        self._row = self._edges[needed[0]] if needed else 0  # of the file, the first of `_batch`
        row_bytes = max((groups[i].total_byte_size // max(1, groups[i].num_rows) for i in needed), default=0)
        # Of a few first rows, no page behind theirs is fetched.
        size = max(1, min(BATCH_ROWS, stop - self._row, BATCH_BYTES // max(1, row_bytes)))
        names = list(columns) if columns is not None else None
        options = {"row_groups": needed, "columns": names, "use_threads": False}  # see store/tables.py
        self._batches = iter(parquet.iter_batches(size, **options) if needed else ())
        schema = parquet.schema_arrow
        schema = schema if names is None else pa.schema([field for field in schema if field.name in names])
        self._empty = self._batch = pa.RecordBatch.from_pylist([], schema)

    def reaches(self, row: int) -> bool:
        """Whether `row` comes next, or as soon from here as from the start of its row group."""
        end = self._row + self._batch.num_rows
        return self._row <= row <= end or (row > end and bisect(self._edges, row) == bisect(self._edges, end))

    def read(self, start: int, stop: int) -> pa.Table:
        """The first rows of [start, stop), as many as lie in one batch; none at the end of the file."""
        while self._row + self._batch.num_rows <= start:
            self._row += self._batch.num_rows
            self._batch = next(self._batches, None)
            if self._batch is None:
                self._batch = self._empty
                break
        table = pa.Table.from_batches([self._batch.slice(start - self._row, stop - start)])
        # Only where it must be: pyarrow 26 cannot cast a list of structs with a key of nulls alone.
        plain = without_views(table.schema)
        return table if table.schema.equals(plain) else table.cast(plain)


class RowReader:
    """Reads rows as `read_rows` does, and keeps the last file open where it is: ranges that ascend decode a row group
    once, however many they are. Held is one batch of it.
    """

    def __init__(self, columns: Sequence[str] | None = None):
        self._columns = columns
        self._opened, self._file, self._footer, self._rows = ("", None), None, None, None

    def read(self, url: str, start: int, stop: int, mark: str | None = None) -> Iterator[pa.Table]:
        """Rows [start, stop) of a file, in tables of at most BATCH_ROWS rows, of about BATCH_BYTES; at least one table.

        mark: of the file that is meant; with another one it is opened anew. Raises InputError; what is read then is
        read from the storage anew.
        """
        row, where = start, f"{url}, rows {start} to {stop}"
        while True:
            table = retry_reading(url, partial(self._next, url, row, stop, mark), UNREADABLE, where)
            row += table.num_rows
            if row < stop and not table.num_rows:
                raise InputError(f"{row - start} rows instead of {stop - start}", where, "was the file replaced?")
            yield table
            if row >= stop:
                return

    def _next(self, url: str, start: int, stop: int, mark: str | None) -> pa.Table:
        try:
            if self._rows is None or (url, mark) != self._opened:
                self.close()
                self._opened, self._file = (url, mark), open_file(url)
                self._footer = read_footer(self._file, url)
            if self._rows is None or not self._rows.reaches(start):
                self._rows = OpenRows(self._file, self._footer, start, self._columns)
            return self._rows.read(start, stop)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, if one is open."""
        if self._file is not None:
            self._file.close()
        self._file = self._footer = self._rows = None


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

"""Rows that wait for the rows of their output file, on the local disk or in memory, and how these files are cut."""

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob.arrays import I64, Bools
from mapjob.store.remote import as_mapjob_error
from mapjob.store.scratch import temporary_file
from mapjob.store.tables import from_ipc, row_bytes, write_ipc

ROWS_PER_FILE, BYTES_PER_FILE = 50_000, 64 << 20  # in memory, of an output file of more than one row
HELD_BYTES = 32 << 20  # of rows before they go to the local disk
ALIGNED_BYTES = 64  # as Arrow likes its buffers
MAX_TABLES = 200  # even a table of a few rows takes kilobytes


@dataclass(frozen=True)
class Part:
    """Some rows of an output. output_rows: of each row its index in the output; marks: hashes of what decides it."""

    output_rows: I64
    marks: npt.NDArray[np.uint64]
    table: pa.Table

    def take(self, rows: npt.NDArray) -> "Part":
        """The rows at an index array."""
        return Part(self.output_rows[rows], self.marks[rows], self.table.take(pa.array(rows)))


class Spool:
    """The rows [first, stop) of an output, on shelves of so many rows: in a file without a name, or where they are."""

    def __init__(self, on_disk: bool, first: int, stop: int, rows_per_shelf: int | None = None):
        self._file, self._mapped = temporary_file() if on_disk else None, None
        self._first, self._stop = first, max(first, stop)
        self._per_shelf = rows_per_shelf or ROWS_PER_FILE
        self._shelves: dict[int, list[tuple[slice | pa.Table, I64]]] = {}
        self._sizes = np.zeros(self._stop - first, np.int64)
        self._marks = np.zeros(self._stop - first, np.uint64)
        self._waiting: list[Part] = []
        self._held = 0

    def add(self, part: Part) -> None:
        """Rows of this output, none of which was added before."""
        inside = part.output_rows - self._first
        self._sizes[inside] = sizes = row_bytes(part.table)
        self._marks[inside] = part.marks
        self._waiting.append(part)
        self._held += int(sizes.sum())
        if self._file is None or self._held >= HELD_BYTES or len(self._waiting) >= MAX_TABLES:
            self.flush()

    def flush(self) -> None:
        """Put what waits on its shelves."""
        if not self._waiting:
            return
        table = pa.concat_tables([part.table for part in self._waiting])
        if self._file is not None:
            table = table.combine_chunks()
        output_rows = np.concatenate([part.output_rows for part in self._waiting])
        self._waiting, self._held = [], 0
        shelf_of = (output_rows - self._first) // self._per_shelf
        for shelf in np.unique(shelf_of).tolist() if len(output_rows) else [0]:
            inside = shelf_of == shelf
            rows = _filter(table, inside)
            stored = rows if self._file is None else self._write(rows)
            self._shelves.setdefault(shelf, []).append((stored, output_rows[inside]))

    def _write(self, rows: pa.Table) -> slice:
        """Returns which bytes of the file they are."""
        self._mapped = None
        try:
            start = self._file.tell()
            write_ipc(rows, self._file)
            stop = self._file.tell()
            self._file.write(bytes(-stop % ALIGNED_BYTES))
            self._file.flush()
        except OSError as error:
            raise as_mapjob_error(error, f"a temporary file in {tempfile.gettempdir()}", "written") from error
        return slice(start, stop)

    def _map(self) -> pa.Buffer:
        """The whole file."""
        if self._mapped is None:
            self._mapped = pa.py_buffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        return self._mapped

    def cut(self, written: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """(first row, row after the last) of each output file: at most ROWS_PER_FILE rows, and BYTES_PER_FILE if it has
        more than one. written: those of files that are written already, whose rows are not here.
        """
        files = []
        for gap, end in self._gaps(written):
            total = np.concatenate(([0], np.cumsum(self._sizes[gap - self._first : end - self._first])))
            start = 0
            while True:
                stop = int(np.searchsorted(total, total[start] + BYTES_PER_FILE, side="right")) - 1
                stop = min(max(stop, start + 1), end - gap)
                files.append((gap + start, gap + stop))
                if stop >= end - gap:
                    break
                start = stop
        return files

    def _gaps(self, written: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Ranges of rows that no file has yet, inside a shelf; of no rows at all, that one."""
        for shelf in range(self._first, max(self._stop, self._first + 1), ROWS_PER_FILE):
            start, end = shelf, min(shelf + ROWS_PER_FILE, self._stop)
            inside = sorted((first, stop) for first, stop in written if start <= first < max(end, start + 1))
            for first, stop in inside:
                if first > start:
                    yield start, first
                start = stop
            if start < end or (start == end == shelf and not inside):
                yield start, end

    def read(self, first: int, stop: int) -> Part:
        """The rows [first, stop), of one shelf, in their order."""
        part = self.read_shelf((first - self._first) // self._per_shelf, first, stop)
        assert part is not None, "there is a table for every file, if only of no rows"
        return part.take(np.argsort(part.output_rows))

    def read_shelf(self, shelf: int, first: int, stop: int) -> Part | None:
        """The rows [first, stop) of a shelf, in the order in which they came; None if none came."""
        tables, rows = [], []
        for stored, output_rows in self._shelves.get(shelf, ()):
            inside = (first <= output_rows) & (output_rows < stop)
            if isinstance(stored, pa.Table):
                tables.append(_filter(stored, inside))
            else:
                tables.append(_filter(from_ipc(self._map()[stored]), inside))
            rows.append(output_rows[inside])
        if not tables:
            return None
        output_rows = np.concatenate(rows)
        return Part(output_rows, self._marks[output_rows - self._first], pa.concat_tables(tables))


def _filter(table: pa.Table, inside: Bools) -> pa.Table:
    return table if inside.all() else table.filter(pa.array(inside))

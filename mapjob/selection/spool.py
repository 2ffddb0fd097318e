"""Rows that wait on the local disk for the rows of their output file, and how these files are cut."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from mapjob.arrays import I64
from mapjob.store.remote import as_mapjob_error
from mapjob.store.tables import from_ipc, row_bytes, to_ipc

ROWS_PER_FILE, BYTES_PER_FILE = 50_000, 64 << 20  # in memory, of an output file of more than one row
HELD_BYTES = 32 << 20  # of rows before they go to the local disk
MAX_TABLES = 200  # even a table of a few rows takes kilobytes


class Spool:
    """Rows that wait on the local disk, on shelves of ROWS_PER_FILE ranks each. num_rows: how many there will be."""

    def __init__(self, folder: Path, num_rows: int):
        self._folder = folder
        self._parts: list[list[tuple[Path, I64]]] = [[] for _ in range(max(1, -(-num_rows // ROWS_PER_FILE)))]
        self._sizes = np.zeros(num_rows, np.int64)
        self._tables: list[pa.Table] = []
        self._rows: list[I64] = []
        self._held = self._num_flushed = 0

    def add(self, table: pa.Table, output_rows: I64) -> None:
        """output_rows: the index of every row in the output."""
        self._sizes[output_rows] = sizes = row_bytes(table)
        self._tables.append(table)
        self._rows.append(output_rows)
        self._held += int(sizes.sum())
        if self._held >= HELD_BYTES or len(self._tables) >= MAX_TABLES:
            self.flush()

    def flush(self) -> None:
        """Write what is held in memory."""
        if not self._tables:
            return
        table, output_rows = pa.concat_tables(self._tables).combine_chunks(), np.concatenate(self._rows)
        self._tables, self._rows, self._held = [], [], 0
        for shelf in np.unique(output_rows // ROWS_PER_FILE) if len(output_rows) else [0]:
            part, inside = self._folder / f"{shelf}-{self._num_flushed}", output_rows // ROWS_PER_FILE == shelf
            try:
                part.write_bytes(to_ipc(table.filter(pa.array(inside))))
            except OSError as error:
                raise as_mapjob_error(error, str(part), "written") from error
            self._parts[shelf].append((part, output_rows[inside]))
        self._num_flushed += 1

    def cut(self) -> list[tuple[int, int, int]]:
        """(shelf, first row, row after the last) of each output file: at most ROWS_PER_FILE rows, and BYTES_PER_FILE if
        it has more than one.
        """
        files = []
        for shelf in range(len(self._parts)):
            first, end = shelf * ROWS_PER_FILE, min((shelf + 1) * ROWS_PER_FILE, len(self._sizes))
            total = np.concatenate(([0], np.cumsum(self._sizes[first:end])))
            start = 0
            while True:
                stop = int(np.searchsorted(total, total[start] + BYTES_PER_FILE, side="right")) - 1
                stop = min(max(stop, start + 1), end - first)
                files.append((shelf, first + start, first + stop))
                if stop >= end - first:
                    break
                start = stop
        return files

    def read(self, shelf: int, first: int, stop: int) -> pa.Table:
        """The rows [first, stop) of a shelf, in their order."""
        tables, places = [], []
        for part, output_rows in self._parts[shelf]:
            inside = (first <= output_rows) & (output_rows < stop)
            with pa.memory_map(str(part)) as file:
                tables.append(from_ipc(file.read_buffer()).filter(pa.array(inside)))
            places.append(output_rows[inside])
        return pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(places)))).combine_chunks()

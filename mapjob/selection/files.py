"""Rows of all pieces to numbered files, each written once: cut by rows and by bytes, and adopted if they exist."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mapjob import collective
from mapjob.arrays import I64
from mapjob.errors import MapjobError
from mapjob.selection import spool
from mapjob.selection.spool import Part, Spool
from mapjob.store.run_folder import RunFolder

MARK = b"mapjob.rows"  # metadata of a file: its first row in the output, the row after its last, and their mark


class WrittenFile(NamedTuple):
    """A file of an unfinished run. mark: of its rows, see `mark_rows`."""

    name: str
    first: int
    stop: int
    mark: int


def list_written(run: RunFolder, folder: str) -> list[WrittenFile]:
    """The files of `selected`, `held_out` or `errors` that an unfinished run left."""
    files = []
    for name in run.tables(folder):
        numbers = (run.read_metadata(name).get(MARK) or b"").split()
        if len(numbers) == len(WrittenFile._fields) - 1:
            files.append(WrittenFile(name, *map(int, numbers)))
    return files


def mark_rows(output_rows: I64, columns: Sequence[npt.NDArray]) -> npt.NDArray[np.uint64]:
    """A hash of each row: its index in the output, and what decides the rest of it. All (N,), of 64 bits or fewer."""
    marks = _mix(output_rows.astype(np.uint64))
    for values in columns:
        bits = values.astype(np.float64).view(np.uint64) if values.dtype.kind == "f" else values.astype(np.uint64)
        marks = _mix(marks ^ _mix(bits))
    return marks


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), of the next number."""
    mixed = bits + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def find_equal(
    written: Sequence[WrittenFile], output_rows: I64, marks: npt.NDArray[np.uint64]
) -> tuple[list[WrittenFile], npt.NDArray[np.bool_]]:
    """(files that hold just the rows of this output; which rows of this piece are in none of them)."""
    written = sorted(written, key=lambda file: file.first)
    starts, stops = (np.array([getattr(file, end) for file in written], np.int64) for end in ("first", "stop"))
    file_of = np.searchsorted(starts, output_rows, side="right") - 1
    rows = np.flatnonzero((file_of >= 0) & (output_rows < np.append(stops, 0)[file_of]))
    sums = np.zeros(len(written), np.uint64)
    np.add.at(sums, file_of[rows], marks[rows])
    is_equal = collective.total(sums) == np.array([file.mark for file in written], np.uint64)
    lacking = np.ones(len(output_rows), bool)
    lacking[rows] = ~is_equal[file_of[rows]]
    return [file for file, equal in zip(written, is_equal) if equal], lacking


def write_files(
    parts: Callable[[], Iterator[Part]],
    num_rows: int,
    run: RunFolder,
    name: Callable[[int, int], str],
    written: Sequence[WrittenFile] = (),
) -> int:
    """Write rows in their order, without those of `written`, files of an unfinished run. Returns how many files the
    rows of all pieces make.

    parts: of this piece, in any order; num_rows: of all pieces. name: of a file, by its number and how many there are.
    Memory holds a few times BYTES_PER_FILE, whatever the number and the size of the rows.
    """
    num_shelves = max(1, -(-num_rows // spool.ROWS_PER_FILE))
    num = min(collective.num_pieces(), num_shelves)
    rows_each = -(-num_shelves // num) * spool.ROWS_PER_FILE
    first = collective.index() * rows_each
    if collective.num_pieces() == 1:
        here = Spool(True, 0, num_rows)
        received = [parts()]
    else:
        here = Spool(False, first, min(first + rows_each, num_rows))
        received = collective.exchange(lambda: _by_receiver(parts(), num, rows_each, num_rows))
    for piece in received:
        for part in piece:
            here.add(part)
    here.flush()
    files = here.cut([(file.first, file.stop) for file in written]) if first < num_rows or first == 0 else []
    starts = [file.first for file in written] + collective.fold([start for start, _ in files], _join)
    number_of = {start: number for number, start in enumerate(sorted(starts))}
    for file in written:
        if file.name != name(number_of[file.first], len(starts)):
            raise MapjobError(
                "an unfinished run left files here that are cut in another way",
                f"{run.url}/{file.name}",
                "remove this run folder (it has no manifest) and run again",
            )
    for start, stop in files:
        part = here.read(start, stop)
        mark = int(part.marks.sum(dtype=np.uint64))
        metadata = {**(part.table.schema.metadata or {}), MARK: f"{start} {stop} {mark}"}
        table = part.table.combine_chunks().replace_schema_metadata(metadata)
        run.put_table(name(number_of[start], len(starts)), table)
    return len(starts)


def _join(parts: list[list[int]]) -> list[int]:
    return [start for part in parts for start in part]


def _by_receiver(parts: Iterator[Part], num: int, rows_each: int, num_rows: int) -> Iterator[list[Part]]:
    """What each of `num` pieces is sent: the rows of its files."""
    waiting = Spool(True, 0, num_rows, rows_each)
    for part in parts:
        waiting.add(part)
    waiting.flush()
    for receiver in range(num):
        part = waiting.read_shelf(receiver, 0, num_rows)
        yield [] if part is None else [part]

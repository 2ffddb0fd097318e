"""Files and units of a corpus, as plain values; how a file is cut into units."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pyarrow as pa

from mapjob.corpus.listing import Listed


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus, as Parquet.

    path: of the Parquet that is read. listed: the file of the corpus. content: names what the Parquet holds, if it was
    converted from another form. name: what people are shown: below input.path, or whole if there are several paths.
    features: those of the library `datasets`, by column. filled: leaves of the columns that hold any value, as dotted
    paths (`chosen.content`), as far as the footer tells. head: its first rows, if they were looked at.
    """

    path: str
    listed: Listed
    content: str | None
    schema: pa.Schema
    row_groups: tuple[int, ...]
    name: str = ""
    features: dict[str, Any] = field(default_factory=dict)
    filled: frozenset[str] = frozenset()
    head: pa.Table | None = None

    @property
    def num_rows(self) -> int:
        return sum(self.row_groups)

    @property
    def identity(self) -> str | None:
        """What changes with its rows: the name of the content, or its mark; None if its storage gives it none."""
        return self.content or self.listed.mark


@dataclass(frozen=True, slots=True)  # the driver holds all units of a corpus
class Unit:
    """A row range [start, stop) of one file: the unit of work, of failure and of memory.

    id: a hash of what its rows say; empty until they were read. file: the Parquet that is read. identity: of it when it
    was planned (see SourceFile). is_converted: its file's name says what it holds. name: of the file that it was, as
    people know it.
    """

    id: str
    file: str
    start: int
    stop: int
    identity: str | None = ""
    is_converted: bool = False
    name: str = ""

    @property
    def num_rows(self) -> int:
        return self.stop - self.start

    @property
    def where(self) -> str:
        """For people."""
        return f"{self.name or self.file}, rows {self.start} to {self.stop}"


def cut(file: SourceFile, rows_per_unit: int) -> Iterator[tuple[int, int]]:
    """Row ranges of one file: small row groups are joined up to `rows_per_unit`, larger ones are cut evenly."""
    start = stop = 0
    for rows in file.row_groups:
        if stop > start and stop - start + rows > rows_per_unit:
            yield start, stop
            start = stop
        stop += rows
        pieces = -(-(stop - start) // rows_per_unit)
        if pieces > 1:
            edges = [start + (stop - start) * i // pieces for i in range(pieces + 1)]
            yield from pairwise(edges)
            start = stop
    if stop > start:
        yield start, stop

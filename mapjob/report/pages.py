"""A selection a page at a time: row groups that are shown are read, and of the rest what filters go by."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mapjob.arrays import I64
from mapjob.store.run_folder import RunFolder

ROWS_PER_PAGE = 10
DISAGREEING = "against"


@dataclass(frozen=True)
class Filter:
    """group: of the run file's group column; labels: `against` for pairs that the reward model contradicts; text: in
    prompt or completions, or the pair_id itself.
    """

    group: str | None = None
    labels: str | None = None
    text: str | None = None


class Pages:
    """The selected pairs of a finished run, in rank order."""

    def __init__(self, run: RunFolder):
        self.run = run
        manifest = run.manifest
        assert manifest is not None, "only finished runs have pages"
        self.manifest = manifest
        self._files = run.tables("selected")
        self._matches: dict[Filter, I64] = {}

    @cached_property
    def group_column(self) -> str | None:
        name = self.manifest["config"]["input"]["columns"]["group"]
        with self._open(self._files[0]) as file:
            return name if name in file.schema_arrow.names else None

    @cached_property
    def starts(self) -> I64:
        """Number of the first row of each row group, over all files, and at the end the number of rows."""
        return np.cumsum([0, *(rows for _, _, rows in self._row_groups)])

    @cached_property
    def _row_groups(self) -> list[tuple[str, int, int]]:
        groups = []
        for name in self._files:
            with self._open(name) as file:
                groups += [(name, i, file.metadata.row_group(i).num_rows) for i in range(file.num_row_groups)]
        return groups

    @cached_property
    def groups(self) -> dict[str, int]:
        """Pairs of each group."""
        if self.group_column is None:
            return {}
        counted = self.column(self.group_column).value_counts().to_pylist()
        return {str(item["values"]): item["counts"] for item in counted}

    def ranks(self, pair_ids: Sequence[str]) -> dict[str, int]:
        """Rank by pair_id of those of these pairs that are selected here; one file's ids are held at a time."""
        wanted = pa.array(pair_ids, pa.string())
        found: dict[str, int] = {}
        for name in self._files:
            with self._open(name) as file:
                both = file.read(["pair_id", "rank"], use_threads=False)
            own = both.filter(pc.is_in(both["pair_id"].cast(pa.string()), wanted))
            found |= zip(own["pair_id"].to_pylist(), own["rank"].to_pylist())
            if len(found) == len(wanted):
                break
        return found

    def matching(self, by: Filter) -> I64:
        """Numbers of the rows that a filter lets through, ascending. Those of the newest filter are kept."""
        numbers = self._matches.get(by)
        if numbers is None:
            numbers = np.flatnonzero(self._passes(by))
            self._matches = {by: numbers}
        return numbers

    def rows(self, numbers: I64) -> list[dict[str, Any]]:
        """Whole rows. numbers: ascending."""
        return [row for table in self.tables(numbers) for row in table.to_pylist()]

    def tables(self, numbers: I64) -> Iterator[pa.Table]:
        """Whole rows, those of one row group after the other. numbers: ascending."""
        edges = np.searchsorted(numbers, self.starts)
        for group in np.flatnonzero(np.diff(edges)):
            name, index, _ = self._row_groups[group]
            with self._open(name) as file:
                rows = file.read_row_group(index, use_threads=False)
            yield rows.take(pa.array(numbers[edges[group] : edges[group + 1]] - self.starts[group]))

    def _passes(self, by: Filter) -> npt.NDArray[np.bool_]:
        passes = np.ones(int(self.starts[-1]), bool)
        if by.group is not None and self.group_column is not None:
            passes &= pc.equal(self.column(self.group_column).cast(pa.string()), by.group).fill_null(False).to_numpy()
        if by.labels == DISAGREEING:
            passes &= ~self.column("label_agrees").to_numpy()
        if by.text:
            passes &= self._holds(by.text)
        return passes

    def _holds(self, text: str) -> npt.NDArray[np.bool_]:
        """Row group by row group, so that memory never holds more than one of them."""
        parts = []
        for name in self._files:
            with self._open(name) as file:
                texts = [column for column in TEXTS if column in file.schema_arrow.names]
                for index in range(file.num_row_groups):
                    table = file.read_row_group(index, columns=["pair_id", *texts], use_threads=False)
                    holds = pc.equal(table["pair_id"].cast(pa.string()), text).to_numpy(zero_copy_only=False)
                    for column in texts:
                        holds |= _holds(table[column].combine_chunks(), text, table.num_rows)
                    parts.append(holds)
        return np.concatenate(parts)

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of all rows."""
        columns = []
        for file_name in self._files:
            with self._open(file_name) as file:
                columns += file.read([name], use_threads=False)[name].chunks
        return pa.chunked_array(columns)

    @contextmanager
    def _open(self, name: str) -> Iterator[pq.ParquetFile]:
        with self.run.open(name) as handle:
            yield pq.ParquetFile(handle, page_checksum_verification=True)


TEXTS = ("prompt", "chosen", "rejected", "conversations")


def _holds(column: pa.Array, text: str, num_rows: int) -> npt.NDArray[np.bool_]:
    """Whether a text column (strings, one message, or lists of messages) holds the text, without regard to case."""
    owner = np.arange(num_rows)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        owner = pc.list_parent_indices(column).to_numpy()
        column = column.flatten()
    if pa.types.is_struct(column.type):
        column = column.field(column.type.num_fields - 1)  # content, or value
    found = pc.match_substring(column, text, ignore_case=True).fill_null(False).to_numpy(zero_copy_only=False)
    holds = np.zeros(num_rows, bool)
    holds[owner[found]] = True
    return holds

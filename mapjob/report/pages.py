"""The selected pairs of a finished run, a page at a time: of the rows shown, whole row groups are read, and of all
others only the columns that a filter looks at.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mapjob.arrays import I64, Bools
from mapjob.config.input import Columns
from mapjob.corpus.plan import Corpus
from mapjob.corpus.reading import Reading
from mapjob.selection.formats import read_pair
from mapjob.store.run_folder import FinishedRun, Manifest

DISAGREEING = "against"
TEXTS = ("prompt", "chosen", "rejected", "conversations")
Row = dict[str, Any]


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

    def __init__(self, run: FinishedRun):
        self.run, self.manifest = run.folder, run.manifest
        self._files = self.run.tables("selected")
        self._matches: dict[Filter, I64] = {}

    @cached_property
    def group_column(self) -> str | None:
        name = self.manifest["config"]["input"]["columns"]["group"]
        with self._open(self._files[0]) as file:
            return name if name in file.schema_arrow.names else None

    @cached_property
    def groups(self) -> dict[str, int]:
        """Number of pairs by group."""
        if self.group_column is None:
            return {}
        counts = self.column(self.group_column).value_counts().to_pylist()
        return {str(item["values"]): item["counts"] for item in counts if item["values"] is not None}

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of all rows."""
        return pa.chunked_array([chunk for table in self._read([name]) for chunk in table[name].chunks])

    def ranks(self, pair_ids: Sequence[str]) -> dict[str, int]:
        """Rank by pair_id of those of these pairs that are selected here; one file's ids are held at a time."""
        wanted = pa.array(pair_ids, pa.string())
        ranks: dict[str, int] = {}
        for table in self._read(["pair_id", "rank"]):
            table = table.filter(pc.is_in(table["pair_id"].cast(pa.string()), wanted))
            ranks |= zip(table["pair_id"].to_pylist(), table["rank"].to_pylist())
            if len(ranks) == len(wanted):
                break
        return ranks

    def matching(self, by: Filter) -> I64:
        """Indices of the rows that a filter lets through, ascending. Those of the newest filter are remembered."""
        if by not in self._matches:
            passes = np.ones(int(self.starts[-1]), bool)
            if by.group is not None and self.group_column is not None:
                groups = self.column(self.group_column).cast(pa.string())
                passes &= pc.equal(groups, by.group).fill_null(False).to_numpy()
            if by.labels == DISAGREEING:
                passes &= ~self.column("label_agrees").to_numpy()
            if by.text:
                passes &= self._contains(by.text)
            self._matches = {by: np.flatnonzero(passes)}
        return self._matches[by]

    def rows(self, indices: I64) -> list[Row]:
        """Whole rows with their texts (see `with_texts`). indices: ascending."""
        edges = np.searchsorted(indices, self.starts)
        rows = []
        for group in np.flatnonzero(np.diff(edges)):
            name, number, _ = self._row_groups[group]
            with self._open(name) as file:
                table = file.read_row_group(number, use_threads=False)
            here = indices[edges[group] : edges[group + 1]] - self.starts[group]
            rows += [with_texts(self.manifest, table.slice(index, 1)) for index in here.tolist()]
        return rows

    @cached_property
    def starts(self) -> I64:
        """Index of the first row of each row group, over all files, and at the end the number of rows."""
        return np.cumsum([0, *(num_rows for _, _, num_rows in self._row_groups)])

    @cached_property
    def _row_groups(self) -> list[tuple[str, int, int]]:
        """(file, number of the row group in it, rows)."""
        groups = []
        for name in self._files:
            with self._open(name) as file:
                groups += [(name, i, file.metadata.row_group(i).num_rows) for i in range(file.num_row_groups)]
        return groups

    def _contains(self, text: str) -> Bools:
        """Row group by row group, so that memory never holds more than one of them."""
        parts = []
        for name in self._files:
            with self._open(name) as file:
                columns = [column for column in TEXTS if column in file.schema_arrow.names]
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number, columns=["pair_id", *columns], use_threads=False)
                    contains = pc.equal(table["pair_id"].cast(pa.string()), text).to_numpy(zero_copy_only=False)
                    for column in columns:
                        contains |= contains_text(table[column].combine_chunks(), text)
                    parts.append(contains)
        return np.concatenate(parts)

    def _read(self, columns: list[str]) -> Iterator[pa.Table]:
        """These columns, a file at a time."""
        for name in self._files:
            with self._open(name) as file:
                yield file.read(columns, use_threads=False)

    @contextmanager
    def _open(self, name: str) -> Iterator[pq.ParquetFile]:
        with self.run.open(name) as handle:
            yield pq.ParquetFile(handle, page_checksum_verification=True)


def contains_text(column: pa.Array, text: str) -> Bools:
    """Whether a text column has the text in it, in upper or lower case: in a string at any depth, but for roles."""
    contains, kind = np.zeros(len(column), bool), column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        row = pc.list_parent_indices(column).to_numpy()
        contains[row[contains_text(column.flatten(), text)]] = True
    elif pa.types.is_struct(kind):
        for index, field in enumerate(kind):
            if field.name not in ("role", "from"):
                contains |= contains_text(column.field(index), text)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        hits = pc.match_substring(column, text, ignore_case=True).fill_null(False)
        contains |= hits.to_numpy(zero_copy_only=False)
    return contains


def with_texts(manifest: Manifest, row: pa.Table) -> Row:
    """A selected row with prompt, chosen and rejected, in whatever format its run was written. row: of one row."""
    config, corpus = manifest["config"], manifest["corpus"]
    read_as = Corpus(Reading.of(corpus["reading"]), Columns(**config["input"]["columns"]), corpus["style"])
    return row.to_pylist()[0] | read_pair(row, config["output_format"], read_as)._asdict()

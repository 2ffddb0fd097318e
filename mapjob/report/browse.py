"""Pages of a selection as HTML that a local server hands out: no script, every text escaped."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mapjob.arrays import I64
from mapjob.escaping import for_terminal
from mapjob.store.run_folder import RunFolder

# A selection a page at a time: row groups that are shown are read, and of the rest what filters go by.

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


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 1rem;
  background: Canvas; color: CanvasText; }
nav, form { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; margin: .6rem 0; }
article { border-top: 1px solid var(--line); padding: .8rem 0; }
h2 { font-size: 1rem; margin: 0; } small { opacity: .75; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; background: var(--soft); padding: .5rem; margin: 0;
  max-height: 18rem; overflow-y: auto; }
input, select, button { font: inherit; }
@media (max-width: 640px) { .sides { grid-template-columns: 1fr; } }
"""


def page_html(pages: Pages, by: Filter, page: int, other: Pages | None) -> str:
    """One page of the pairs that a filter lets through; with another run, each pair's rank there too."""
    matching = pages.matching(by)
    last = max(1, -(-len(matching) // ROWS_PER_PAGE))
    page = min(max(page, 1), last)
    rows = pages.rows(np.asarray(matching[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE]))
    counts = pages.manifest["counts"]
    title = f"{counts['selected']:,} of {counts['ranked']:,} pairs, {_text(pages.run.run_id)}"
    against = f"<p>beside {_text(other.run.run_id)}</p>" if other else ""
    ranks = other.ranks([row["pair_id"] for row in rows]) if other else None
    articles = "".join(_article(pages, row, ranks) for row in rows) or "<p>No pair passes this filter.</p>"
    navs = [_nav(by, page, last, len(matching), where) for where in ("above", "below")]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{STYLE}</style></head><body>
<header><h1>{title}</h1>{against}</header><main>{_form(pages, by)}{navs[0]}{articles}{navs[1]}</main>
</body></html>"""


def _form(pages: Pages, by: Filter) -> str:
    groups = "".join(
        f'<option value="{_text(name)}"{" selected" if name == by.group else ""}>{_text(name)} ({number:,})</option>'
        for name, number in pages.groups.items()
    )
    select = (
        f'<select name="group" aria-label="group"><option value="">all groups</option>{groups}</select>'
        if groups
        else ""
    )
    checked = " checked" if by.labels == DISAGREEING else ""
    return f"""<form method="get" action="/">{select}
<label><input type="checkbox" name="labels" value="{DISAGREEING}"{checked}> label against the reward model</label>
<label>text or pair_id <input type="search" name="text" value="{_text(by.text or "")}"></label>
<button>show</button></form>"""


def _nav(by: Filter, page: int, last: int, number: int, where: str) -> str:
    def link(name: str, to: int) -> str:
        query = {key: value for key, value in vars(by).items() if value} | {"page": to}
        return f'<a href="/?{escape(urlencode(query))}">{name}</a>' if 1 <= to <= last and to != page else name

    links = " ".join([link("first", 1), link("back", page - 1), link("on", page + 1), link("last", last)])
    return f'<nav aria-label="pages, {where}">{links} <small>page {page:,} of {last:,}, {number:,} pairs</small></nav>'


def _article(pages: Pages, row: dict[str, Any], ranks: Mapping[str, int] | None) -> str:
    there = ""
    if ranks is not None:
        rank = ranks.get(row["pair_id"])
        there = f", rank {rank:,} there" if rank else ", not selected there"
    group = f", {_text(row[pages.group_column])}" if pages.group_column else ""
    against = "" if row["label_agrees"] else ", <strong>against the reward model</strong>"
    implicit = f", implicit {row['implicit_margin']:+.3f}" if "implicit_margin" in row else ""
    head = f"rank {row['rank']:,}{there}{group}{against}"
    scores = f"map {row['map_score']:+.3f}, reward {row['reward_margin']:+.3f}{implicit}, {_text(row['pair_id'])}"
    if "chosen" in row and "rejected" in row:
        sides = "".join(
            f"<div><small>{side}, reward {row[f'{side}_reward']:.3f}</small>{_panel(row[side])}</div>"
            for side in ("chosen", "rejected")
        )
    else:
        sides = "<p>This run holds the corpus's own columns: see <code>mapjob show</code> for the texts.</p>"
    prompt = row.get("prompt", row.get("conversations"))
    asked = _panel(prompt) if prompt else ""
    return f'<article><h2>{head}</h2><small>{scores}</small>{asked}<div class="sides">{sides}</div></article>'


def _panel(text: Any) -> str:
    """A text that scrolls within itself, also by the keyboard."""
    return f'<pre tabindex="0">{_said(text)}</pre>'


def _said(text: Any) -> str:
    if isinstance(text, dict):
        text = [text]
    if isinstance(text, list):
        turns = ((turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))) for turn in text)
        return "\n\n".join(f"[{_text(role)}] {_text(content)}" for role, content in turns)
    return _text(text)


def _text(value: Any) -> str:
    return escape(for_terminal(str(value)))

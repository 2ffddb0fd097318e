"""Rows leave an output: their texts, ids and scores, in every run, pack and cache. The one command that rewrites.

Runs come first and the records last, since by these the rows are found: killed at any call, the same command ends in
the same state.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.corpus.known import KnownOutput
from mapjob.errors import IncompleteError
from mapjob.job.publish import draw_page
from mapjob.report.card import card
from mapjob.scoring.reader_families import RECORDS
from mapjob.selection.decisions import FILE
from mapjob.store.forgotten import FOLDER, Forgotten, Rows, merge_rows
from mapjob.store.output import Output
from mapjob.store.run_folder import MANIFEST, FinishedRun, Loss, Manifest, RunFolder, read_units
from mapjob.store.score_store import READ_THREADS, ScoreStore
from mapjob.store.storage import SCRATCH, Storage
from mapjob.store.tables import from_parquet, to_parquet

QUIET_S = 900.0  # without a new file: then no run is going on
SKEW_S = 60.0  # between the clocks of a storage and of this machine
TABLES = ("selected", "held_out", "errors")
UNUSED = {"row", "completion_keys", "prompt_key", "group", "num_completions", "reason", "detail"}
ROWS_MARK = b"mapjob.rows"  # of a table of a run: a hash that covers its rows
SIDES = re.compile(r":\d+-\d+$")  # behind the id of a row that gives several pairs


@dataclass(frozen=True)
class Wanted:
    """Which rows are to leave: those with these pair_ids. file: URL of a source, all rows of which leave, also those
    without an id; rows elsewhere only if they have one of these row keys too.
    """

    ids: pa.Array
    file: str | None = None
    keys: pa.Array | None = None

    def in_records(self, table: pa.Table) -> pa.ChunkedArray:
        matches = pc.is_in(table["pair_id"], self.ids)
        return matches if self.keys is None else pc.and_(matches, pc.is_in(table["row_key"], self.keys))

    def in_run(self, table: pa.Table, several: bool) -> pa.ChunkedArray:
        """several: ids of the run may name the sides of a pair."""
        matches = pc.is_in(table["pair_id"], self.ids)
        if several:
            rows = pc.replace_substring_regex(table["pair_id"], SIDES.pattern, "")
            matches = pc.or_(matches, pc.is_in(rows, self.ids))
        if "file" in table.column_names and self.file is not None:
            names = [name for name in pc.unique(table["file"]).to_pylist() if f"/{self.file}".endswith(f"/{name}")]
            matches = pc.or_(matches, pc.is_in(table["file"], pa.array(names, pa.string())))
        return matches


@dataclass(frozen=True)
class OfRun:
    """What leaves a finished run: rows by file; and what will be said of it then."""

    run: FinishedRun
    tables: dict[str, int]
    loss: Loss


@dataclass(frozen=True)
class Leaving:
    """What `forget` will do. unknown: ids that no row has. names: of other files and folders that are removed."""

    output: str
    request: tuple[str, ...]
    wanted: Wanted
    rows: Rows
    unknown: int
    runs: list[OfRun]
    families: list[str]  # the records last
    files: list[tuple[str, str]]  # of the score store: (family, unit)
    packs: list[tuple[str, str]]
    names: list[str]
    heads: dict[str, pa.Table]  # lists in plans/ that keep first rows of files, without those

    @property
    def is_empty(self) -> bool:
        return not (self.rows or self.runs)

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.rows.values()))


def find_leaving(output: str, ids: Iterable[str] = (), source: str | None = None) -> Leaving:
    """What is to be done so that rows leave an output; nothing is changed. ids: their pair_ids; source: or a file of
    the corpus, all rows of which are meant.

    Raises IncompleteError while a run seems to be going on, ConfigError for a source that is not known.
    """
    finished, unfinished = Output(output).list_runs()
    storage, store, forgotten, known = Storage(output), ScoreStore(output), Forgotten(output), KnownOutput(output)
    request = tuple(sorted(ids)) if source is None else ("--source", source)
    resumed = forgotten.resume(request)
    if resumed is None:
        _check_quiet(storage, finished, unfinished)
    kinds = store.list_kinds()
    families = sorted(kinds, key=lambda family: kinds[family] == RECORDS)
    done = {family: store.done(family) for family in families}
    records = {family: done[family] for family in families if kinds[family] == RECORDS}
    given, several = set(ids), any(map(_several, finished))
    if several:
        given |= {SIDES.sub("", name) for name in given}
    wanted, whole = Wanted(pa.array(sorted(given), pa.string())), dict[str, list[int]]()
    if source is not None:
        url, units = known.find_source(source)
        wanted, whole = _of_source(store, records, url, units)
    rows, seen = _find_rows(store, records, wanted)
    rows = merge_rows([rows, whole, resumed or {}])
    scanned = set().union(*records.values())
    gone = merge_rows([rows, store.forgotten])
    runs = [of for run in finished if (of := _look_at_run(run, wanted, rows, gone, scanned)) is not None]
    units, names = set(rows), list[str]()
    if rows:
        names += [f"runs/{name}" for name in unfinished] + known.converted_with(units)
        names += [folder for folder in ("sweeps", SCRATCH) if storage.files(folder)]
    return Leaving(
        storage.url,
        request,
        wanted,
        rows,
        sum(seen.isdisjoint({name, SIDES.sub("", name) if several else name}) for name in set(ids)),
        runs,
        families,
        [(family, unit) for family in families for unit in sorted(units & done[family])],
        store.list_packs(units) if units else [],
        names,
        dict(known.heads()) if rows else {},
    )


def _several(run: FinishedRun) -> bool:
    return run.manifest["config"]["selection"]["pairs_per_record"] > 1


def _check_quiet(storage: Storage, finished: list[FinishedRun], unfinished: list[str]) -> None:
    """Raises IncompleteError if files were written lately that no finished run accounts for."""
    ends = [datetime.fromisoformat(run.manifest["finished_at"]).timestamp() for run in finished]
    ends += [modified for _, modified in storage.files(FOLDER)]
    written = [
        modified for name in ("scores", *(f"runs/{n}" for n in unfinished)) for _, modified in storage.files(name)
    ]
    newest = max(written, default=0.0)
    if newest > max([*ends, time.time() - QUIET_S]) + SKEW_S:
        what = f"a run may be going on here: it wrote {max(0.0, time.time() - newest):,.0f} s ago, and has not finished"
        do = f"wait until it ends; if it was killed, run this again after {QUIET_S / 60:g} quiet minutes"
        raise IncompleteError(what, storage.url, do)


def _of_source(
    store: ScoreStore, records: dict[str, set[str]], url: str, units: set[str]
) -> tuple[Wanted, dict[str, list[int]]]:
    """(which rows a source has, all rows of its units)."""
    tables = dict[str, pa.Table]()
    for family, done in records.items():
        here = sorted(units & done)
        tables |= zip(here, (table.select(["pair_id", "row_key"]) for table in store.read_all(family, here, UNUSED)))
    whole = {unit: list(range(len(table))) for unit, table in tables.items()}
    if not tables:
        return Wanted(pa.array([], pa.string()), url, pa.array([], pa.binary(16))), whole
    joined = pa.concat_tables(tables.values())
    return Wanted(pc.unique(joined["pair_id"].drop_null()), url, pc.unique(joined["row_key"].drop_null())), whole


def _find_rows(store: ScoreStore, records: dict[str, set[str]], wanted: Wanted) -> tuple[Rows, set[str]]:
    """(rows by unit, the ids among those that are wanted that some row has)."""
    rows, seen = dict[str, list[int]](), set[str]()
    for family, done in records.items() if len(wanted.ids) else ():
        units = store.by_pack(done)
        for unit, table in zip(units, store.read_all(family, units, UNUSED)):
            matches = np.flatnonzero(pc.fill_null(wanted.in_records(table), False))
            if len(matches):
                rows[unit] = sorted({*rows.get(unit, ()), *matches.tolist()})
                seen.update(table["pair_id"].take(pa.array(matches)).to_pylist())
    return rows, seen


def _look_at_run(run: FinishedRun, wanted: Wanted, rows: Rows, gone: Rows, scanned: set[str]) -> OfRun | None:
    """What leaves a run; None for one that has none of the rows. gone: all that were ever forgotten. scanned: units
    whose rows were looked at.
    """
    units, counts = set(read_units(run.manifest)), run.manifest["counts"]
    decided = [FILE] if run.manifest.get("decisions") else []
    if units.isdisjoint(rows) and units <= scanned and not decided:
        return None
    tables, left = dict[str, int](), 0
    for name in [*(name for folder in TABLES for name in run.folder.tables(folder)), *decided]:
        folder = name.partition("/")[0]
        table = run.folder.read_table(name, ["pair_id", "file"] if folder == "errors" else ["pair_id"])
        leaving = sum(chunk.true_count for chunk in wanted.in_run(table, _several(run) or name == FILE).chunks)
        tables[name] = leaving
        left += len(table) - leaving if folder == "selected" else 0
    tables = {name: leaving for name, leaving in tables.items() if leaving}
    if units.isdisjoint(rows) and not tables:
        return None
    num_rows = sum(len(gone[unit]) for unit in units if unit in gone)
    return OfRun(run, tables, {"rows": max(num_rows, counts["selected"] - left), "selected": left})


def forget(leaving: Leaving) -> None:
    """Do it. What is known of the rows afterwards is where they lay."""
    if leaving.is_empty:
        return
    storage, store = Storage(leaving.output), ScoreStore(leaving.output)
    forgotten = Forgotten(leaving.output)
    if not forgotten.unfinished:
        forgotten.begin(leaving.request, leaving.rows)
    for of in leaving.runs:
        _take_from_run(of, leaving.wanted)
    for name in leaving.names:
        storage.remove(name)
    for name, table in leaving.heads.items():
        storage.replace(name, to_parquet(table))
    with ThreadPoolExecutor(READ_THREADS) as threads:
        rewrite = [partial(store.rewrite, family, unit, leaving.rows[unit]) for family, unit in leaving.files]
        packs = [partial(store.rewrite_pack, family, name, leaving.rows) for family, name in leaving.packs]
        for step in (*_by_family(leaving, rewrite), packs):
            list(threads.map(_call, step))
    forgotten.end()


def _by_family(leaving: Leaving, work: list[Callable[[], None]]) -> Iterator[list[Callable[[], None]]]:
    """One after the other, so that the records are the last."""
    for family in leaving.families:
        yield [call for (of, _), call in zip(leaving.files, work) if of == family]


def _call(work: Callable[[], None]) -> None:
    work()


def _take_from_run(of: OfRun, wanted: Wanted) -> None:
    """Rewrite the files of a run; its manifest first, so that nobody takes it for whole."""
    folder, several = of.run.folder, _several(of.run)
    manifest = folder.read_manifest()
    assert manifest is not None, "it was listed as finished"
    manifest |= {"statistics": _without_details(manifest["statistics"]), "forgotten": of.loss}
    folder.replace(MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    for name in of.tables:
        table = from_parquet(folder.read(name))
        stays = pc.invert(pc.fill_null(wanted.in_run(table, several or name == FILE), False))
        metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != ROWS_MARK}
        folder.replace(name, to_parquet(table.filter(stays).replace_schema_metadata(metadata)))
    _redraw(folder, manifest)


def _redraw(folder: RunFolder, manifest: Manifest) -> None:
    """Card and report without numbers that may be one row's: those are cut to two digits."""
    if "report.json" in folder.files():
        drawn_from = json.loads(folder.read("report.json"))
        if "forgotten" not in drawn_from:
            summary = drawn_from["summary"]
            summary["margins"]["edges"] = [_cut_edges(edges) for edges in summary["margins"]["edges"]]
            for histogram in summary["histograms"].values():
                histogram["edges"] = _cut_edges(histogram["edges"])
            for profile in (summary["everything"], summary["selected"]):
                profile |= {name: list(map(_cut, profile[name])) for name in ("reward_margin", "implicit_margin")}
            drawn_from |= {"statistics": manifest["statistics"], "forgotten": True}
            folder.replace("report.json", (json.dumps(drawn_from) + "\n").encode())
        folder.replace("report.html", draw_page(folder).encode())
    folder.replace("README.md", card(manifest).encode())


def _without_details(statistics: dict[str, Any]) -> dict[str, Any]:
    cut = {**statistics, "cut_off": _cut(statistics["cut_off"])}
    for name, value in statistics.items():
        if isinstance(value, dict) and "quantiles" in value:
            cut[name] = {**value, "quantiles": {share: _cut(number) for share, number in value["quantiles"].items()}}
    return cut


def _cut(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.2g}")


def _cut_edges(edges: list[float]) -> list[float]:
    """Edges of bins, moved by less than a tenth of a bin."""
    digits = 1 + math.ceil(-math.log10(edges[1] - edges[0]))
    return [round(edge, digits) for edge in edges]

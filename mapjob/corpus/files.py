"""The files of a corpus: which of those under a path are read, each as Parquet, with what its footer says."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mapjob.config.input import Input
from mapjob.corpus.footers import read_file
from mapjob.corpus.forms import Conversions
from mapjob.corpus.known import KnownFiles
from mapjob.corpus.listing import Listed, Listing, count, list_path, passed_over_notes, shorten
from mapjob.corpus.look import common_features, look_at, spread, with_heads
from mapjob.corpus.splits import choose_splits, missing_shards, splits_of
from mapjob.corpus.units import SourceFile
from mapjob.errors import InputError

FOOTER_THREADS = 16


@dataclass(frozen=True)
class CorpusFiles:
    """The files of a corpus, and what is said of those that were chosen, converted or passed over."""

    files: tuple[SourceFile, ...]
    notes: tuple[str, ...]
    features: dict[str, Any]  # of the columns that have the same in all files
    heads: tuple[pa.Table, ...]  # first rows of some files


def find_files(source: Input, output: str | None) -> CorpusFiles:
    """Every file of the splits that are wanted, once, sorted by its URL; what is no Parquet is converted once.

    output: where converted files are kept; null: a folder that is gone when this process ends. Raises ConfigError when
    a path holds no file or no such split, InputError for what cannot be read, or has no one meaning.
    """
    paths = [source.path] if isinstance(source.path, str) else source.path
    listings = [_saved(list_path(path)) for path in paths]
    taken, notes = _choose(listings, source.split)
    chosen: dict[str, Listed] = {}
    for listing in listings:
        files, said = _one_form([file for file in listing.files if file in taken], listing)
        notes += said
        notes += missing_shards(files) if listing.kind == "folder" else []
        chosen |= {file.url: file for file in files}
    known, conversions = KnownFiles(output), Conversions(output)
    contents = {url: _convert(file, known.find(file), conversions) for url, file in chosen.items()}
    urls, several = sorted(chosen), len(paths) > 1
    of_head = {urls[index] for index in spread(len(urls), all("://" not in url for url in urls))}
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        corpus_files = tuple(
            threads.map(
                lambda url: look_at(chosen[url], known.find(chosen[url]), contents[url], conversions, url in of_head),
                urls,
            )
        )
    corpus_files = tuple(replace(file, name=file.listed.url if several else file.listed.name) for file in corpus_files)
    corpus_files, heads = with_heads(corpus_files)
    if conversions.written:
        known.keep(file for file in corpus_files if file.content is not None)
        notes.append(f"{count(conversions.written, 'file')} written as Parquet, once, to {conversions.folder}")
    by_url = dict(zip(sorted(chosen), corpus_files))
    corpus_files, empty = _without_empty(corpus_files)
    notes += empty
    for listing in listings:
        if listing.kind == "folder":
            _check_folders(listing, by_url)
    features, differing = common_features(corpus_files)
    if differing:
        notes.append(f"features that differ between files are left out of the selection: {', '.join(differing)}")
    return CorpusFiles(corpus_files, tuple(dict.fromkeys(notes)), features, heads)


def _choose(listings: Sequence[Listing], wanted: str | list[str] | None) -> tuple[set[Listed], list[str]]:
    """The files of the splits that are wanted, and notes. Without a wish each path's own splits decide."""
    splits: dict[Listed, frozenset[str]] = {}
    taken: set[Listed] = set()
    notes: list[str] = []
    for listing in listings:
        readme = _read_text(f"{listing.url.rstrip('/')}/README.md") if listing.has_readme else None
        of_files, said = splits_of(listing, readme)
        notes += [*listing.notes, *said, *passed_over_notes(listing.passed_over)]
        splits |= of_files
        if wanted is None and listing.kind == "file":  # it is meant, whatever it is called
            taken |= set(of_files)
        elif wanted is None:
            files, said = choose_splits(of_files, None, listing.where)
            taken |= set(files)
            notes += said if len(listings) == 1 else [f"{listing.path}: {note}" for note in said]
    if wanted is not None:
        files, said = choose_splits(splits, wanted, "input.split")
        taken |= set(files)
        notes += said
    return taken, notes


def _one_form(files: list[Listed], listing: Listing) -> tuple[list[Listed], list[str]]:
    """The files of one form, Parquet if there is any, and notes on the others. Raises InputError for two others."""
    forms = sorted({file.form for file in files})
    if len(forms) < 2:
        return files, []
    if "parquet" not in forms:
        raise InputError(
            f"there are files of {len(forms)} forms here: "
            + ", ".join(f".{form} ({shorten([file.name for file in files if file.form == form])})" for form in forms),
            listing.where,
            f"say which are meant by a glob, such as {listing.url.rstrip('/')}/**/*.{forms[0]}",
        )
    notes = []
    for form in forms:
        names = [file.name for file in files if file.form == form]
        if form != "parquet":
            notes.append(f"passed over: {count(len(names), f'.{form} file beside Parquet')} ({shorten(names)})")
    return [file for file in files if file.form == "parquet"], notes


def _without_empty(files: tuple[SourceFile, ...]) -> tuple[tuple[SourceFile, ...], list[str]]:
    """The files but those without a row that are no Parquet and so have no columns, and a note on these.

    Raises InputError if no file is left.
    """
    empty = [file.name for file in files if file.content is not None and not file.num_rows]
    if not empty:
        return files, []
    if len(empty) == len(files):
        raise InputError("the files have no rows", shorten(empty), "check that the files are the ones you meant")
    return tuple(file for file in files if file.num_rows or file.content is None), [
        f"passed over: {count(len(empty), 'file')} without rows ({shorten(empty)})"
    ]


def _saved(listing: Listing) -> Listing:
    """Without the Arrow files that a folder of `save_to_disk` no longer means: its state.json lists what it does."""
    states = [name for name in listing.passed_over.get("companion", ()) if name.rpartition("/")[2] == "state.json"]
    stale = set()
    for name in states:
        folder = name.removesuffix("state.json")
        try:
            listed = {entry["filename"] for entry in json.loads(_read_text(f"{listing.url}/{name}"))["_data_files"]}
        except (ValueError, KeyError, TypeError):
            continue  # of another tool
        here = {file.name for file in listing.files if file.form == "arrow" and file.name.startswith(folder)}
        stale |= {file for file in here if "/" not in file[len(folder) :]} - {folder + file for file in listed}
        if missing := sorted({folder + file for file in listed} - here):
            what = f"state.json lists files that are not there: {shorten(missing)}"
            raise InputError(what, f"{listing.url}/{name}", "bring them back, or save the data set again")
    if not stale:
        return listing
    passed_over = {**listing.passed_over, ".arrow file that state.json does not list": tuple(sorted(stale))}
    files = tuple(file for file in listing.files if file.name not in stale)
    return replace(listing, files=files, passed_over=passed_over)


def _convert(file: Listed, known: SourceFile | None, conversions: Conversions) -> str | None:
    """Name of the content of a file that is no Parquet, which is converted unless it was before; None for Parquet."""
    if file.form == "parquet":
        return None
    if known is not None and known.content is not None and conversions.has(known.content):
        return known.content
    return conversions.convert(file)


def _check_folders(listing: Listing, files: dict[str, SourceFile]) -> None:
    """Raises InputError if the folders of a path are several data sets: their files have other columns. files: by URL.

    Partitions (date=2024-01-01) are not: columns come and go in the life of a table.
    """
    columns: dict[str, dict[str, None]] = {}
    for listed in listing.files:
        top, _, below = listed.name.partition("/")
        if below and "=" not in top and listed.url in files and files[listed.url].schema.names:
            columns.setdefault(top, {}).update(dict.fromkeys(files[listed.url].schema.names))
    if len({frozenset(names) for names in columns.values()}) > 1:
        they = "; ".join(f"{top}/ has {', '.join(names)}" for top, names in list(columns.items())[:4])
        raise InputError(
            f"the folders here hold different columns, so they are several data sets: {they}",
            listing.where,
            "name the one that is meant as input.path, or a list of them: "
            + ", ".join(f"{listing.url.rstrip('/')}/{top}" for top in columns),
        )


def _read_text(url: str) -> str:
    work = lambda file: file.read().decode(errors="replace")  # noqa: E731
    return read_file(url, work, "not readable", url)

"""The files of a corpus: which of those under a path are read, each as Parquet, with what its footer says."""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.config.input import Input
from mapjob.corpus.footers import leaves, read_file, read_footer, without_views
from mapjob.corpus.forms import Conversions, Converted, file_identity
from mapjob.corpus.listing import Listed, Listing, count, list_path, passed_over_notes, shorten
from mapjob.corpus.splits import choose_splits, missing_shards, splits_of
from mapjob.errors import InputError

FOOTER_THREADS = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus, as Parquet.

    path: of the Parquet that is read. identity: changes with its content, as `file_identity` has it; of a file that was
    converted, the name of its content. is_converted: from another form than Parquet. name: what people are shown: below
    input.path, or whole if there are several paths. features: those of the library `datasets`, by column. filled:
    leaves of the columns that hold any value, as dotted paths (`chosen.content`), as far as the footer tells.
    """

    path: str
    identity: str
    schema: pa.Schema
    row_groups: tuple[int, ...]
    name: str = ""
    is_converted: bool = False
    features: dict[str, Any] = field(default_factory=dict)
    filled: frozenset[str] = frozenset()

    @property
    def num_rows(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True)
class CorpusFiles:
    """The files of a corpus, and what is said of those that were chosen, converted or passed over."""

    files: tuple[SourceFile, ...]
    notes: tuple[str, ...]
    features: dict[str, Any]  # of the columns that have the same in all files


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
    conversions = Conversions(output)
    sources = [_parquet_of(chosen[url], conversions, len(paths) > 1) for url in sorted(chosen)]
    if conversions.written:
        notes.append(f"{count(conversions.written, 'file')} written as Parquet, once, to {conversions.folder}")
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        corpus_files = tuple(threads.map(lambda one: _inspect(*one), sources))
    by_url = dict(zip(sorted(chosen), corpus_files))
    corpus_files, empty = _without_empty(corpus_files)
    notes += empty
    for listing in listings:
        if listing.kind == "folder":
            _check_folders(listing, by_url)
    features, differing = _common_features(corpus_files)
    if differing:
        notes.append(f"features that differ between files are left out of the selection: {', '.join(differing)}")
    return CorpusFiles(corpus_files, tuple(dict.fromkeys(notes)), features)


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
    empty = [file.name for file in files if file.is_converted and not file.num_rows]
    if not empty:
        return files, []
    if len(empty) == len(files):
        raise InputError("the files have no rows", shorten(empty), "check that the files are the ones you meant")
    return tuple(file for file in files if file.num_rows or not file.is_converted), [
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


def _parquet_of(file: Listed, conversions: Conversions, several: bool) -> tuple[Converted, str]:
    name = file.url if several else file.name
    if file.form == "parquet":
        return Converted(file.url, None), name
    return conversions.convert(file), name


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


def _inspect(converted: Converted, name: str) -> SourceFile:
    url = converted.url

    def read(file: BinaryIO) -> tuple[pq.FileMetaData, pa.Schema]:
        metadata = read_footer(file, url)
        return metadata, metadata.schema.to_arrow_schema()

    identity = converted.content or file_identity(url)
    metadata, schema = read_file(url, read, "not a readable Parquet file", url)
    for column in schema.names:
        if schema.names.count(column) > 1:
            raise InputError(f"two columns are called {column!r}", url, "rename one of them")
    groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    features, filled = features_of(schema), _filled(metadata, schema)
    return SourceFile(
        url, identity, without_views(schema), groups, name, converted.content is not None, features, filled
    )


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """The features of the library `datasets` in a schema's metadata, by column; empty if there are none.

    Those that cannot be read are left out of the selection, with a warning: they change how it is loaded, no score.
    """
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    try:
        features = json.loads(written)["info"]["features"]
        return dict(features or {})
    except (ValueError, KeyError, TypeError):
        log.warning("features of the library datasets (metadata huggingface) cannot be read, and are left out")
        return {}


def _common_features(files: Sequence[SourceFile]) -> tuple[dict[str, Any], list[str]]:
    """(features of columns that are the same in every file with the column, columns that lose theirs)."""
    features: dict[str, Any] = {}
    differing: dict[str, list[Any]] = {}
    for file in files:
        for name in file.schema.names:
            feature = file.features.get(name)
            if features.setdefault(name, feature) != feature:
                differing.setdefault(name, []).extend([features[name], feature])
    common = {name: feature for name, feature in features.items() if feature is not None and name not in differing}
    # A plain value says no more than its type.
    said = [name for name, them in differing.items() if any(one and one.get("_type") != "Value" for one in them)]
    return common, said


def _filled(metadata: pq.FileMetaData, schema: pa.Schema) -> frozenset[str]:
    """Leaves that hold a value, by the footer's statistics; a leaf without them counts as filled."""
    columns = [(name, pa.types.is_null(kind)) for name, kind in leaves(schema)]
    if len(columns) != metadata.num_columns:
        return frozenset(name for name, _ in columns)
    filled = set()
    for group in range(metadata.num_row_groups):
        for index, (name, is_null) in enumerate(columns):
            if is_null or name in filled:
                continue
            column = metadata.row_group(group).column(index)
            has_count = column.is_stats_set and column.statistics.has_null_count
            if not has_count or column.statistics.null_count < column.num_values:
                filled.add(name)
    return frozenset(filled)

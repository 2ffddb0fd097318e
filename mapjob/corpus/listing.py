"""What lies under an input path: the files that may hold rows, by their form, and everything else by its kind.

Nothing is opened here. A table whose log says which rows of its files are live (Delta, Iceberg, Hudi) is refused.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import fsspec
from huggingface_hub.errors import OfflineModeIsEnabled

from mapjob.errors import ConfigError, InputError, MapjobError
from mapjob.store.remote import STORAGE_ERRORS, as_mapjob_error, filesystem, retry

Form = Literal["parquet", "jsonl", "json", "csv", "tsv", "arrow"]
ENDINGS: dict[str, Form] = {
    **dict.fromkeys((".parquet", ".parq", ".pq"), "parquet"),
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"), "jsonl"),
    **dict.fromkeys((".json", ".json.gz"), "json"),
    **dict.fromkeys((".csv", ".csv.gz"), "csv"),
    **dict.fromkeys((".tsv", ".tsv.gz"), "tsv"),
    ".arrow": "arrow",
}
# What lies beside rows by habit: named in one note.
COMPANIONS = {"readme.md", "readme", "readme.txt", "license", "license.md", "license.txt", "citation.cff", "_success"}
COMPANIONS |= {".gitattributes", ".gitignore", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"}
COMPANIONS |= {"state.json", "_metadata", "_common_metadata", ".ds_store"}
COMPANION_FOLDERS = {".git", ".cache", ".huggingface"}
GLOB_MARKS = "*?["
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
CONVERTED = "refs/convert/parquet"  # a branch that the hub makes of a data set, if it can

TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}
LEVELS_UP = 4  # from a file to the folder of the table that it is of: partitions are folders too
THREADS = 16


@dataclass(frozen=True)
class Listed:
    """A file that may hold rows. `name`: below the input path."""

    url: str
    name: str
    form: Form


@dataclass(frozen=True)
class Listing:
    """What lies under one path. passed_over: kind -> names of the files and links that are not read."""

    path: str  # as the run file has it
    url: str  # of the folder that names are relative to
    kind: Literal["file", "folder", "glob"]
    files: tuple[Listed, ...]
    passed_over: Mapping[str, tuple[str, ...]]
    has_readme: bool
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return f"input.path: {self.path}"


def url_of(path: str) -> str:
    """The path, or the URL of a data set of the hub: for `org/name` or `org/name@revision` that is no local path."""
    is_name = HUB_NAME.fullmatch(path) and not os.path.lexists(path.partition("@")[0]) and not os.path.lexists(path)
    return f"hf://datasets/{path}" if is_name else path


def list_path(path: str) -> Listing:
    """What lies under a path. Listing is tried again if the storage fails for a moment.

    Raises ConfigError when nothing there can be read, InputError for a table with a log.
    """
    url = url_of(path)
    try:
        return _hub_listing(path, url) if url.startswith("hf://") else retry(lambda: _listing(path, url))
    except OfflineModeIsEnabled:
        raise ConfigError(_missing(path, url), f"input.path: {path}", "unset HF_HUB_OFFLINE, or fix the path") from None
    except STORAGE_ERRORS as error:
        raise _of_hub(as_mapjob_error(error, url, "listed"), path, url) from error


def _missing(path: str, url: str) -> str:
    return f"there is no local path {path}, and the hub is not asked" if path != url else "the hub is not asked"


def _of_hub(error: MapjobError, path: str, url: str) -> MapjobError:
    if path == url:
        return error
    return type(error)(f"there is no local path {path}; on the hub: {error.what}", error.where, error.do)


def _listing(path: str, url: str) -> Listing:
    fs, root = filesystem(url)
    info = _info(fs, root)
    if info is not None and info != "directory":
        parent, _, name = root.rpartition("/")
        _refuse_tables_above(fs, [parent], path)
        return Listing(path, _url(fs, parent), "file", (Listed(_url(fs, root), name, form_of(name) or "parquet"),), {}, False)
    if info == "directory" or not any(mark in root for mark in GLOB_MARKS):
        names, links = _below(fs, root)
        kind: Literal["folder", "glob"] = "folder"
    else:
        root, pattern = root[: min(root.index(mark) for mark in GLOB_MARKS if mark in root)].rpartition("/")[0], root
        names, links = _matches(fs, root, pattern)
        kind = "glob"
    _refuse_tables(names, path)
    folders = {f"{root}/{name}".rpartition("/")[0] for name in names} if kind == "glob" else {root.rpartition("/")[0]}
    _refuse_tables_above(fs, sorted(folders), path)
    return _sort(path, fs, root, kind, names, links, exists=bool(names) or info is not None)


def _info(fs: fsspec.AbstractFileSystem, path: str) -> str | None:
    """file, directory, or None if there is neither."""
    if fs.isfile(path):
        return "file"
    return "directory" if fs.isdir(path) else None


def _url(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return fs.unstrip_protocol(path) if "file" not in fs.protocol else path


def form_of(name: str) -> Form | None:
    """The form that a file's ending stands for, in any case."""
    lower = name.lower()
    return next((form for ending, form in ENDINGS.items() if lower.endswith(ending)), None)


# Listing


def _below(fs: fsspec.AbstractFileSystem, root: str) -> tuple[list[str], list[str]]:
    """(names of the files below a folder, links to folders that are not followed), relative to it."""
    if "file" in fs.protocol:
        return _walk(root)
    prefix = root.rstrip("/") + "/"
    found = fs.find(root, detail=True)
    return sorted(name.removeprefix(prefix) for name, info in found.items() if info["type"] != "directory"), []


def _matches(fs: fsspec.AbstractFileSystem, root: str, pattern: str) -> tuple[list[str], list[str]]:
    """As `_below`, of what matches a glob: files, and folders with all that is in them."""
    prefix, names, links = root.rstrip("/") + "/", set(), set()
    for found, info in fs.glob(pattern, detail=True).items():
        name = found.rstrip("/").removeprefix(prefix)
        is_folder = os.path.isdir(found) if "file" in fs.protocol else info["type"] == "directory"
        if not is_folder:
            names.add(name)
        elif not _is_hidden(name):
            inside, not_followed = _below(fs, found.rstrip("/"))
            names |= {f"{name}/{inner}" for inner in inside}
            links |= {f"{name}/{inner}" for inner in not_followed}
    return sorted(names), sorted(links)


def _walk(root: str) -> tuple[list[str], list[str]]:
    """Files below a local folder, links to folders followed; a folder that two ways lead to is read once."""
    root = root.rstrip("/") or "/"
    files: list[str] = []
    links: list[str] = []
    not_followed: list[str] = []
    seen = {os.path.realpath(root)}

    def walk(top: str) -> None:
        for folder, folders, names in os.walk(top, onerror=_raise):
            files.extend(os.path.join(folder, name) for name in names)
            inner = [(name, os.path.join(folder, name)) for name in sorted(folders)]
            links.extend(path for _, path in inner if os.path.islink(path))
            folders[:] = [name for name, path in inner if os.path.realpath(path) not in seen]
            seen.update(os.path.realpath(path) for _, path in inner if not os.path.islink(path))

    walk(root)
    while links:
        link = links.pop(0)
        target = os.path.realpath(link)
        if target in seen or f"{os.path.realpath(root)}/".startswith(f"{target.rstrip('/')}/"):
            not_followed.append(link)
        else:
            seen.add(target)
            walk(link)
    return tuple(sorted(os.path.relpath(path, root) for path in paths) for paths in (files, not_followed))


def _raise(error: OSError) -> None:
    raise error


def _is_hidden(name: str) -> bool:
    """Markers and unfinished writes of other tools: any part below the root that starts with a dot or underscore."""
    return any(part[:1] in "._" for part in name.split("/"))


def _sort(
    path: str,
    fs: fsspec.AbstractFileSystem,
    root: str,
    kind: Literal["folder", "glob"],
    names: Iterable[str],
    links: list[str],
    exists: bool,
) -> Listing:
    """Files to read and what is passed over, by kind."""
    read: list[Listed] = []
    passed_over: dict[str, list[str]] = {"link to a folder that is read anyway": links} if links else {}
    unknown = []
    for name in names:
        base = name.rpartition("/")[2]
        if base.lower() in COMPANIONS or COMPANION_FOLDERS & set(name.split("/")):
            passed_over.setdefault("companion", []).append(name)
        elif _is_hidden(name):
            passed_over.setdefault("hidden file", []).append(name)
        elif (form := form_of(name)) is not None:
            read.append(Listed(_url(fs, f"{root.rstrip('/')}/{name}"), name, form))
        else:
            unknown.append(name)
    if kind == "glob" and not read:  # a glob may mean files that are called anything
        read, unknown = [Listed(_url(fs, f"{root.rstrip('/')}/{name}"), name, "parquet") for name in unknown], []
    for name in unknown:
        ending = os.path.splitext(name.rpartition("/")[2])[1]
        passed_over.setdefault(f"{ending} file" if ending else "file without an ending", []).append(name)
    if not read:
        there = "; ".join(passed_over_notes(passed_over)) or "it is empty"
        what = f"no file here holds rows ({there})" if exists else "there is nothing at this path"
        do = "give a folder of Parquet, JSONL, JSON, CSV or Arrow files, a file, or a glob"
        if fs.protocol == "hf" and not exists:
            what = "the hub has no such data set, revision or folder, or you may not read it"
            do = "check the name; log in (`hf auth login`, HF_TOKEN) for a private or gated one; or give a local folder"
            what = what if path.startswith("hf://") else f"there is no local path {path}, and {what}"
        raise ConfigError(what, f"input.path: {path}", do)
    kinds = {kind: tuple(names) for kind, names in passed_over.items()}
    return Listing(path, _url(fs, root), kind, tuple(read), kinds, "README.md" in names)


def passed_over_notes(passed_over: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """One sentence for each kind of file that is not read; plain companions come last."""
    for kind, names in sorted(passed_over.items(), key=lambda item: item[0] == "companion"):
        if kind == "companion":
            yield f"beside the data: {shorten(names)}"
        else:
            yield f"passed over: {count(len(list(names)), kind)} ({shorten(names)})"


def count(number: int, kind: str) -> str:
    """`3 .csv files beside Parquet` of 3 and `.csv file beside Parquet`."""
    for word in ("file", "link"):
        kind = re.sub(rf"\b{word}\b", word if number == 1 else f"{word}s", kind, count=1)
    return f"{number:,} {kind}"


def shorten(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


# The hub


def _hub_listing(path: str, url: str) -> Listing:
    """A data set of the hub; from the branch that the hub converted it to, if it has no Parquet of its own."""
    try:
        own: Listing | None = retry(lambda: _listing(path, url))
    except ConfigError:
        own = None
    fs, root = filesystem(url)
    is_whole = len(root.split("/")) == 3 and "@" not in root and root.startswith("datasets/")
    if not is_whole or (own is not None and any(file.form == "parquet" for file in own.files)):
        return own if own is not None else retry(lambda: _listing(path, url))
    branch = f"hf://{root}@{CONVERTED}"
    try:
        converted = retry(lambda: _listing(branch, branch))
    except ConfigError:
        return own if own is not None else retry(lambda: _listing(path, url))
    name = root.removeprefix("datasets/")
    partial = [file.name for file in converted.files if file.name.split("/")[1:2][0].startswith("partial-")]
    if partial:
        if own is None:
            do = "download the data set, write it as Parquet or JSONL, and name that folder"
            raise InputError("the hub converted only a part of this data set to Parquet", f"input.path: {path}", do)
        return own
    note = f"{name} has no Parquet files of its own: read from {CONVERTED}, to which the hub converted it"
    return Listing(branch, converted.url, "folder", converted.files, converted.passed_over, False, (note,))


# Tables with a log of their own


def _refuse_tables(names: Iterable[str], path: str) -> None:
    for name in names:
        *folders, base = name.split("/")
        for index, folder in enumerate(folders):
            if folder in TABLES:
                raise _refusal(TABLES[folder], "/".join(folders[:index]) or "the path itself", path)
        if folders[-1:] == ["metadata"] and base.endswith(".metadata.json"):
            raise _refusal("Iceberg", "/".join(folders[:-1]) or "the path itself", path)


def _refuse_tables_above(fs: fsspec.AbstractFileSystem, folders: list[str], path: str) -> None:
    """Raises InputError if a folder or one of a few above it is such a table."""
    top = 3 if fs.protocol == "hf" else 1  # below datasets/org/name, below the bucket
    above = set()
    for folder in folders:
        parts = folder.rstrip("/").split("/")
        above |= {"/".join(parts[:end]) for end in range(len(parts), max(top, len(parts) - LEVELS_UP) - 1, -1)}
    # A partition (date=2024-01-01) is no table.
    candidates = sorted(folder for folder in above if folder and "=" not in folder.rpartition("/")[2])
    with ThreadPoolExecutor(THREADS) as threads:
        for folder, table in zip(candidates, threads.map(lambda folder: _table_at(fs, folder), candidates)):
            if table is not None:
                raise _refusal(table, _url(fs, folder), path)


def _table_at(fs: fsspec.AbstractFileSystem, folder: str) -> str | None:
    for log, table in TABLES.items():
        if fs.isdir(f"{folder}/{log}"):
            return table
    metadata = f"{folder}/metadata"
    if fs.isdir(metadata) and any(name.endswith(".metadata.json") for name in fs.ls(metadata, detail=False)):
        return "Iceberg"
    return None


def _refusal(table: str, at: str, path: str) -> InputError:
    return InputError(
        f"this is a table of {table} ({at}): its log says which rows of its files are live, and mapjob does not read "
        "that; rows that were deleted would come back",
        f"input.path: {path}",
        f"write the table's current rows as plain Parquet into another folder (with Spark, DuckDB or {table}'s own "
        "library), and name that folder",
    )

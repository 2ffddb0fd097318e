"""What lies under an input path: the files that may hold rows, by their form, and everything else by its kind.

Nothing is opened here.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import fsspec

from mapjob.corpus.marks import Info, fresh, info_of, mark_of
from mapjob.corpus.table_logs import refuse_tables, refuse_tables_above
from mapjob.corpus.walk import once, walk
from mapjob.errors import ConfigError, InputError, MapjobError
from mapjob.store.remote import as_mapjob_error, filesystem, retry

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
Infos = Mapping[str, Info | None]  # by name; None: not asked yet
CONVERTED = "refs/convert/parquet"  # a branch that the hub makes of a data set, if it can


@dataclass(frozen=True)
class Listed:
    """A file that may hold rows. name: below the input path. mark: as `mark_of` has it. size: None if it is unknown."""

    url: str
    name: str
    form: Form
    size: int | None
    mark: str | None


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
    except OSError as error:
        raise _of_hub(as_mapjob_error(error, url, "listed"), path, url) from error


def _of_hub(error: MapjobError, path: str, url: str) -> MapjobError:
    if path == url:
        return error
    return type(error)(
        f"there is no local path {path}; on the hub: {error.what}", error.where, f"fix the path; or {error.do}"
    )


def _listing(path: str, url: str) -> Listing:
    fs, root = filesystem(url)
    info = _info(fs, root)
    if info is not None and info != "directory":
        parent, _, name = root.rpartition("/")
        refuse_tables_above(fs, [parent], path)
        file = _list_file(fs, root, name, form_of(name) or "parquet", None)
        return Listing(path, _url(fs, parent), "file", (file,), {}, False)
    if info == "directory" or not any(mark in root for mark in GLOB_MARKS):
        names, links = _below(fs, root) if info else ({}, [])
        kind: Literal["folder", "glob"] = "folder"
    else:
        root, pattern = root[: min(root.index(mark) for mark in GLOB_MARKS if mark in root)].rpartition("/")[0], root
        names, links = _matches(fs, root, pattern)
        kind = "glob"
    refuse_tables(names, path)
    folders = {f"{root}/{name}".rpartition("/")[0] for name in names} if kind == "glob" else {root.rpartition("/")[0]}
    refuse_tables_above(fs, sorted(folders), path)
    return _sort(path, fs, root, kind, names, links, exists=bool(names) or info is not None)


def _info(fs: fsspec.AbstractFileSystem, path: str) -> str | None:
    """file, directory, or None if there is neither."""
    with suppress(OSError):  # that is raised below
        if "s3" in fs.protocol and fs.info(path)["type"] == "directory":
            return "directory"  # for which isdir lists all that is in it
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


def _below(fs: fsspec.AbstractFileSystem, root: str) -> tuple[Infos, list[str]]:
    """(the files below a folder, links to folders that are not followed), both by names relative to it."""
    if "file" in fs.protocol:
        names, links = walk(root)
        return dict.fromkeys(names), links
    prefix = root.rstrip("/") + "/"
    infos = fs.find(root, detail=True, **fresh(fs))
    return {name.removeprefix(prefix): infos[name] for name in sorted(infos) if infos[name]["type"] != "directory"}, []


def _matches(fs: fsspec.AbstractFileSystem, root: str, pattern: str) -> tuple[Infos, list[str]]:
    """As `_below`, of what matches a glob: files, and folders with all that is in them."""
    is_local, prefix = "file" in fs.protocol, root.rstrip("/") + "/"
    if is_local:  # links to folders are followed, which fsspec does not do
        matches = {match: None for match in glob.glob(pattern, recursive=True)}
    else:
        matches = fs.glob(pattern, detail=True, **fresh(fs))
    files: dict[str, Info | None] = {}
    links: set[str] = set()
    for match, info in matches.items():
        name = f"{match.rstrip('/')}/".removeprefix(prefix).rstrip("/")
        if not (os.path.isdir(match) if info is None else info["type"] == "directory"):
            files[match.removeprefix(prefix)] = info
        elif name and not _is_hidden(name):  # `**` matches the root too
            inside, not_followed = _below(fs, match.rstrip("/"))
            files |= {f"{name}/{inner}": info for inner, info in inside.items()}
            links |= {f"{name}/{inner}" for inner in not_followed}
    return {name: files[name] for name in (once(prefix, files) if is_local else sorted(files))}, sorted(links)


def _list_file(fs: fsspec.AbstractFileSystem, path: str, name: str, form: Form, info: Info | None) -> Listed:
    """A file as its storage lists it; the storage is asked once more if the listing gives no mark."""
    mark = None if info is None else mark_of(info)
    if mark is None:
        try:
            info = info_of(fs, path)
        except FileNotFoundError:  # a link to nothing: reading it says so
            info = {}
        mark = mark_of(info)
    assert info is not None
    return Listed(_url(fs, path), name, form, info.get("size"), mark)


def _is_hidden(name: str) -> bool:
    """Markers and unfinished writes of other tools: any part below the root that starts with a dot or underscore."""
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _sort(
    path: str,
    fs: fsspec.AbstractFileSystem,
    root: str,
    kind: Literal["folder", "glob"],
    infos: Infos,
    links: list[str],
    exists: bool,
) -> Listing:
    """Files to read and what is passed over, by kind."""
    read: list[Listed] = []
    passed_over: dict[str, list[str]] = {"link to a folder that is read anyway": links} if links else {}
    unknown = []
    for name in infos:
        base = name.rpartition("/")[2]
        if base.lower() in COMPANIONS or COMPANION_FOLDERS & set(name.split("/")):
            passed_over.setdefault("companion", []).append(name)
        elif _is_hidden(name):
            passed_over.setdefault("hidden file", []).append(name)
        elif (form := form_of(name)) is not None:
            read.append(_list_file(fs, f"{root.rstrip('/')}/{name}", name, form, infos[name]))
        else:
            unknown.append(name)
    if kind == "glob" and not read:  # a glob may mean files that are called anything
        read = [_list_file(fs, f"{root.rstrip('/')}/{name}", name, "parquet", infos[name]) for name in unknown]
        unknown = []
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
    return Listing(path, _url(fs, root), kind, tuple(read), kinds, "README.md" in infos)


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
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        no_path = f"there is no local path {path}, and " if path != url else ""
        do = "unset it, or give a local folder"
        raise ConfigError(f"{no_path}HF_HUB_OFFLINE keeps from asking the hub", f"input.path: {path}", do)
    own, missing = None, None
    try:
        own = retry(lambda: _listing(path, url))
    except ConfigError as error:
        missing = error
    root = filesystem(url)[1]
    is_whole = len(root.split("/")) == 3 and "@" not in root and root.startswith("datasets/")
    if is_whole and (own is None or all(file.form != "parquet" for file in own.files)):
        converted = _converted(root, path)
        if converted is not None:
            return converted
    if own is None:
        raise missing
    if root.endswith(f"@{CONVERTED}"):
        _check_configs(own, path)
    return own


def _converted(root: str, path: str) -> Listing | None:
    """The branch that the hub converted a data set to, config by config; None if it has none, or only a part."""
    branch = f"hf://{root}@{CONVERTED}"
    try:
        found = retry(lambda: _listing(branch, branch))
    except ConfigError:
        return None
    if any("/partial-" in file.name for file in found.files):
        return None
    _check_configs(found, path)
    note = f"{path} has no Parquet files of its own: read from {CONVERTED}, to which the hub converted it"
    return Listing(branch, found.url, "folder", found.files, found.passed_over, False, (note,))


def _check_configs(converted: Listing, path: str) -> None:
    """Raises InputError if the converted branch has several configs: each is a folder at its top."""
    configs = sorted({file.name.split("/")[0] for file in converted.files})
    if len(configs) > 1:
        do = f"name one as input.path: {', '.join(f'{converted.url}/{config}' for config in configs)}"
        raise InputError(f"this data set has {len(configs)} configs: {', '.join(configs)}", f"input.path: {path}", do)

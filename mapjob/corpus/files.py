"""The Parquet files of a corpus: found, identified, and their footers read. Nothing is decoded here."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.corpus.footer import read_footer
from mapjob.corpus.remote import STORAGE_ERRORS, explained, filesystem, is_of_content, retried
from mapjob.corpus.views import without_views
from mapjob.errors import ConfigError, InputError
from mapjob.escaping import first_line

FOOTER_THREADS = 16
GLOB_MARKS = "*?["


@dataclass(frozen=True)
class SourceFile:
    """One Parquet file. `identity` changes with its content: the etag where there is one, else size and mtime."""

    path: str
    identity: str
    schema: pa.Schema
    row_groups: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        return sum(self.row_groups)


def find_files(path: str | list[str]) -> list[SourceFile]:
    """Every Parquet file under the paths, sorted by name, each once.

    Raises ConfigError when a path holds none and InputError for a file that is not readable Parquet.
    """
    urls = [path] if isinstance(path, str) else path
    names = sorted({name for url in urls for name in listed(url)})
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        return list(threads.map(_inspect, names))


def listed(url: str) -> list[str]:
    """The Parquet files under a folder or glob, as URLs. Listing is tried again where the storage has a bad moment."""
    try:
        return retried(lambda: _names(url))
    except STORAGE_ERRORS as error:
        raise explained(error, url, "listed") from error


def _names(url: str) -> list[str]:
    fs, path = filesystem(url)
    if fs.isfile(path):
        names = [path]
    elif fs.isdir(path) or not any(mark in path for mark in GLOB_MARKS):
        names = [name for name in fs.find(path) if name.endswith(".parquet") and not _is_hidden(name, path)]
    else:
        fixed = path[: min(path.index(mark) for mark in GLOB_MARKS if mark in path)].rpartition("/")[0]
        names = [name for name in fs.glob(path) if fs.isfile(name) and not _is_hidden(name, fixed)]
    if not names:
        what = "no Parquet file here" if fs.exists(path) else "there is nothing at this path"
        raise ConfigError(what, f"input.path: {url}", "give a folder of .parquet files, a file, or a glob")
    return [fs.unstrip_protocol(name) if "file" not in fs.protocol else name for name in names]


def _is_hidden(name: str, root: str) -> bool:
    """Markers and unfinished writes of other tools: any part below the root that starts with a dot or underscore."""
    return any(part[:1] in "._" for part in name.removeprefix(root).strip("/").split("/"))


def _inspect(url: str) -> SourceFile:
    fs, path = filesystem(url)

    def look() -> pq.FileMetaData:
        with fs.open(path, "rb", cache_type="none") as file:
            return read_footer(file, url)

    identity = file_identity(url)
    try:
        metadata = retried(look)
        schema = without_views(metadata.schema.to_arrow_schema())
    except (pa.ArrowException, UnicodeDecodeError, *STORAGE_ERRORS) as error:
        if not is_of_content(error):
            raise explained(error, url, "read") from error
        raise InputError(
            f"not a readable Parquet file: {first_line(error)}", url, "replace the file or take it out of input.path"
        ) from None
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise InputError(f"two columns are called {name!r}", url, "rename one of them")
    groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    return SourceFile(url, identity, schema, groups)


def file_identity(url: str) -> str:
    """What changes with the content of a file: its etag where there is one, else size and time of change."""
    fs, path = filesystem(url)
    try:
        info = retried(lambda: fs.info(path))
    except STORAGE_ERRORS as error:
        raise explained(error, url, "read") from error
    etag = info.get("ETag") or info.get("etag")
    return str(etag) if etag else f"{info['size']}-{info.get('mtime') or info.get('LastModified')}"

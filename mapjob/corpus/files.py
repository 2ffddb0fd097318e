"""The Parquet files of a corpus: list and identify them, read their footers. Nothing is decoded here."""

import base64
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.errors import ConfigError, InputError
from mapjob.escaping import first_line
from mapjob.store.remote import STORAGE_ERRORS, as_mapjob_error, filesystem, is_of_content, retry

# A Parquet file's footer is read once, and no extension type is opened before it is known to be harmless. Arrow keeps
# extension types by name in the footer, and while it opens a file it runs whatever Python code a library has registered
# under that name; such code has unpickled what the file told it to. So the names are read first, from a footer in which
# nothing is called an extension.

T = TypeVar("T")
TAIL_BYTES = 1 << 16
MAGIC = b"PAR1"
# Types that Arrow has itself, without Python code, whose values are plain text, bytes or truth values.
HARMLESS = {"arrow.json", "arrow.uuid", "arrow.bool8"}
_NAME_KEY, _BLIND_KEY = b"ARROW:extension:name", b"ARROW:EXTENSION:name"


def read_footer(file: BinaryIO, where: str) -> pq.FileMetaData:
    """The footer of an open file.

    Raises InputError for a column of an extension type that is not HARMLESS, OSError or an ArrowException for what is
    no Parquet or contradicts itself, UnicodeDecodeError for names that are no text.
    """
    end = _end_of_file(file)
    blinded = _blind(end)
    footer = _open(blinded)
    for name, kind in _extensions(footer.schema_arrow):
        if kind not in HARMLESS:
            raise InputError(
                f"the column {name!r} is of the extension type {kind!r}, which is not read: it could run code",
                where,
                "write the file without this column, or the column as plain text, numbers or lists",
            )
    metadata = (footer if blinded == end else _open(end)).metadata
    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
        raise pa.ArrowInvalid(f"its footer says {metadata.num_rows} rows, its row groups have {sum(rows)}")
    return metadata


def _end_of_file(file: BinaryIO) -> bytes:
    """The footer with its length and magic bytes behind it."""
    size = file.seek(0, io.SEEK_END)
    if size < 12:
        raise pa.ArrowInvalid(f"{size} bytes are too few")
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read()
    if not tail.endswith(MAGIC):
        raise pa.ArrowInvalid("it does not end as a Parquet file does, so it is something else or cut off")
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if needed > size:
        raise pa.ArrowInvalid("its footer would be longer than the file")
    if needed > len(tail):
        file.seek(size - needed)
        tail = file.read()
    return tail[-needed:]


def _open(end: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(io.BytesIO(MAGIC + end))


def _blind(end: bytes) -> bytes:
    """The footer with another word for "extension". The schema is in base64 there, so at one of three offsets."""
    for shift in range(3):
        first, last = -(-8 * shift // 6), 8 * (shift + len(_NAME_KEY)) // 6  # characters without neighbours' bits
        key, blind = (base64.b64encode(bytes(shift) + k + bytes(3))[first:last] for k in (_NAME_KEY, _BLIND_KEY))
        end = end.replace(key, blind)
    return end


def _extensions(fields: pa.Schema | list[pa.Field], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(column, name of its extension type) for every field, at any depth, that a blinded footer has one for."""
    for field in fields:
        name = prefix + field.name
        kind = (field.metadata or {}).get(_BLIND_KEY)
        if kind is not None:
            yield name, kind.decode(errors="replace")
        yield from _extensions([field.type.field(i) for i in range(field.type.num_fields)], f"{name}.")


# View types (string_view, binary_view), which some writers prefer, as the plain types that Arrow can also sort by.


def without_views(schema: pa.Schema) -> pa.Schema:
    """The schema with large_string and large_binary in place of views, at any depth; metadata is dropped."""
    return pa.schema(map(_plain_field, schema))


def _plain_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, _plain(field.type), field.nullable)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    return kind


FOOTER_THREADS = 16
GLOB_MARKS = "*?["


@dataclass(frozen=True)
class SourceFile:
    """One Parquet file. `identity` changes with its content: the etag if there is one, else size and mtime."""

    path: str
    identity: str
    schema: pa.Schema
    row_groups: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        return sum(self.row_groups)


def find_files(path: str | list[str]) -> list[SourceFile]:
    """Every Parquet file under the paths, once, sorted by name.

    Raises ConfigError when a path holds none and InputError for a file that is not readable Parquet.
    """
    urls = [path] if isinstance(path, str) else path
    names = sorted({name for url in urls for name in _list_files(url)})
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        return list(threads.map(_inspect, names))


def read_parquet(url: str, work: Callable[[BinaryIO], T], what: str, where: str) -> T:
    """What `work` reads from an open file; reading is tried again if the storage fails for a moment.

    what, where: of the InputError that is raised if the file's content is at fault.
    """
    fs, path = filesystem(url)

    def read() -> T:
        with fs.open(path, "rb", cache_type="none") as file:
            return work(file)

    try:
        return retry(read)
    except (pa.ArrowException, UnicodeDecodeError, *STORAGE_ERRORS) as error:
        if not is_of_content(error):
            raise as_mapjob_error(error, url, "read") from error
        raise InputError(
            f"{what}: {first_line(error)}", where, "replace the file or take it out of input.path"
        ) from None


def _list_files(url: str) -> list[str]:
    """The Parquet files under a folder or glob, as URLs. Listing is tried again if the storage fails for a moment."""
    try:
        return retry(lambda: _names(url))
    except STORAGE_ERRORS as error:
        raise as_mapjob_error(error, url, "listed") from error


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
    def read(file: BinaryIO) -> tuple[pq.FileMetaData, pa.Schema]:
        metadata = read_footer(file, url)
        return metadata, without_views(metadata.schema.to_arrow_schema())

    identity = file_identity(url)
    metadata, schema = read_parquet(url, read, "not a readable Parquet file", url)
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise InputError(f"two columns are called {name!r}", url, "rename one of them")
    groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    return SourceFile(url, identity, schema, groups)


def file_identity(url: str) -> str:
    """What changes with the content of a file: its etag if there is one, else size and time of change."""
    fs, path = filesystem(url)
    try:
        info = retry(lambda: fs.info(path))
    except STORAGE_ERRORS as error:
        raise as_mapjob_error(error, url, "read") from error
    etag = info.get("ETag") or info.get("etag")
    return str(etag) if etag else f"{info['size']}-{info.get('mtime') or info.get('LastModified')}"

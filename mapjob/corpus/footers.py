"""The footer of a Parquet file, read so that nothing it names can run; and the types that its columns are read as."""

import base64
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.errors import InputError
from mapjob.escaping import first_line
from mapjob.store.remote import as_mapjob_error, filesystem, is_of_content, retry

# A Parquet file's footer is read once, and no extension type is opened before it is known to be harmless. Arrow keeps
# extension types by name in the footer, and while it opens a file it runs whatever Python code a library has registered
# under that name; such code has unpickled what the file told it to. So the names are read first, from a footer in which
# nothing is called an extension.

T = TypeVar("T")
TAIL_BYTES = 1 << 16
MAGIC = b"PAR1"
# Types that Arrow has itself, without Python code, whose values are plain text, bytes or truth values.
HARMLESS = {"arrow.json", "arrow.uuid", "arrow.bool8"}
NAME_KEY, BLIND_KEY = b"ARROW:extension:name", b"ARROW:EXTENSION:name"


def read_footer(file: BinaryIO, where: str) -> pq.FileMetaData:
    """The footer of an open file.

    Raises InputError for a column of an extension type that is not HARMLESS, OSError or an ArrowException for what is
    no Parquet or contradicts itself, UnicodeDecodeError for names that are no text.
    """
    end = _end_of_file(file)
    blinded = _blind(end)
    footer = _open(blinded)
    check_extensions(footer.schema_arrow, where)
    metadata = (footer if blinded == end else _open(end)).metadata
    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
        raise pa.ArrowInvalid(f"its footer says {metadata.num_rows} rows, its row groups have {sum(rows)}")
    return metadata


def check_extensions(blinded: pa.Schema, where: str) -> None:
    """Raises InputError for a column, at any depth, of an extension type that is not HARMLESS.

    blinded: a schema that was read with BLIND_KEY in place of NAME_KEY.
    """
    for name, kind in _extensions(blinded):
        if kind not in HARMLESS:
            raise InputError(
                f"the column {name!r} is of the extension type {kind!r}, which is not read: it could run code",
                where,
                "write the file without this column, or the column as plain text, numbers or lists",
            )


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
        first, last = -(-8 * shift // 6), 8 * (shift + len(NAME_KEY)) // 6  # characters without neighbours' bits
        key, blind = (base64.b64encode(bytes(shift) + k + bytes(3))[first:last] for k in (NAME_KEY, BLIND_KEY))
        end = end.replace(key, blind)
    return end


def _extensions(fields: pa.Schema | list[pa.Field], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(column, name of its extension type) for every field, at any depth, that a blinded footer has one for."""
    for field in fields:
        name = prefix + field.name
        kind = (field.metadata or {}).get(BLIND_KEY)
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


def leaves(fields: pa.Schema | list[pa.Field], prefix: str = "") -> list[tuple[str, pa.DataType]]:
    """Dotted paths and types of leaves, in the order of a Parquet file's columns; a list adds no name to its items'."""
    found = []
    for field in fields:
        kind, name = field.type, prefix + field.name
        while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
        inner = [kind.field(i) for i in range(kind.num_fields)] if pa.types.is_nested(kind) else []
        if pa.types.is_map(kind):
            inner = [kind.key_field, kind.item_field]
        if inner and kind.num_fields and not pa.types.is_dictionary(kind):
            found += leaves(inner, f"{name}.")
        else:
            found.append((name, kind))
    return found


def read_file(
    url: str, work: Callable[[BinaryIO], T], what: str, where: str, size: int | None = None, whole: bool = False
) -> T:
    """What `work` reads from an open file; reading is tried again if the storage fails for a moment.

    what, where: of the InputError that is raised if the file's content is at fault. size: in bytes, if it is known: the
    storage need not be asked for it. whole: fetch the file by one request.
    """

    def read() -> T:
        with open_file(url, size, whole) as file:
            return work(file)

    return retry_reading(url, read, what, where)


def open_file(url: str, size: int | None = None, whole: bool = False) -> BinaryIO:
    """A file to read ranges of. size, whole: as in `read_file`. Raises as its file system does."""
    fs, path = filesystem(url)
    if size is None or not fs.async_impl:  # the others open the file for each range
        return fs.open(path, "rb", cache_type="none")
    return io.BytesIO(fs.cat_file(path, start=0, end=size)) if whole else Ranges(fs, path, size)


def retry_reading(url: str, read: Callable[[], T], what: str, where: str) -> T:
    """What `read` returns; it is tried again, and its errors are raised, as in `read_file`."""
    try:
        return retry(read)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if not is_of_content(error):
            raise as_mapjob_error(error, url, "read") from error
        raise InputError(
            f"{what}: {first_line(error)}", where, "replace the file or take it out of input.path"
        ) from None


class Ranges(io.RawIOBase):
    """A file of a known size, read by a request for each range: drivers ask for the size of what they open."""

    def __init__(self, fs: fsspec.AbstractFileSystem, path: str, size: int):
        self._fs, self._path, self._size, self._at = fs, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._at + len(buffer), self._size)
        data = self._fs.cat_file(self._path, start=self._at, end=end) if end > self._at else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        return self.read(self._size - self._at)

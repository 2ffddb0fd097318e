"""A Parquet file's footer, by one read, and no column type of the file's own making before it is known to be harmless.

Arrow keeps extension types by name in the footer, and while it opens a file it runs whatever Python code a library has
registered under that name; such code has unpickled what the file told it to. So the names are read first, by a footer
in which nothing is called an extension.
"""

import base64
import io
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.errors import InputError

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
    blinded = _blinded(end)
    footer = _opened(blinded)
    for name, kind in _extensions(footer.schema_arrow):
        if kind not in HARMLESS:
            raise InputError(
                f"the column {name!r} is of the extension type {kind!r}, which is not read: it could run code",
                where,
                "write the file without this column, or the column as plain text, numbers or lists",
            )
    metadata = (footer if blinded == end else _opened(end)).metadata
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


def _opened(end: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(io.BytesIO(MAGIC + end))


def _blinded(end: bytes) -> bytes:
    """The footer with another word for "extension". The schema stands there in base64, so at one of three offsets."""
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

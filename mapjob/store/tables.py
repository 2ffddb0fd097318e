"""Arrow tables as bytes: Parquet for files, IPC for blocks between stages.

Parquet's page checksums leave out the footer and the page headers. Our files hold a digest of all their bytes before
the footer, where no other reader looks, so that a flipped bit never becomes a number.
"""

import hashlib
from collections.abc import Collection
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mapjob.arrays import I64

DIGEST_BYTES = 32
ROWS_PER_GROUP = 2_000  # which are read to show one row


def to_parquet(table: pa.Table) -> bytes:
    """One Parquet file; equal tables give equal bytes."""
    return chunks_to_parquet(table.combine_chunks())


def numbers_to_parquet(table: pa.Table) -> bytes:
    """As `to_parquet`, of numbers of which hardly one is there twice, so that a dictionary would only cost time."""
    return chunks_to_parquet(table.combine_chunks(), use_dictionary=False)


def chunks_to_parquet(table: pa.Table, use_dictionary: bool = True, rows_per_group: int = ROWS_PER_GROUP) -> bytes:
    """One Parquet file of a table whose columns may be too long for one chunk: 2 GiB of text."""
    buffer = pa.BufferOutputStream()
    options = {"compression": "zstd", "write_page_checksum": True, "row_group_size": rows_per_group}
    pq.write_table(table, buffer, use_dictionary=use_dictionary, **options)
    return seal(memoryview(buffer.getvalue()))


def seal(parquet: bytes | memoryview) -> bytes:
    """Insert the digest of a Parquet file's bytes before its footer."""
    footer = _footer_start(parquet)
    pages, rest = memoryview(parquet)[:footer], memoryview(parquet)[footer:]
    return b"".join([pages, _digest(pages, rest), rest])  # one copy


def from_parquet(data: bytes, columns: list[str] | None = None, without: Collection[str] = ()) -> pa.Table:
    """The table of a file that `to_parquet` made. columns, without: what is decoded of it, by default all.

    Raises ArrowInvalid if a byte changed, KeyError for a missing column.
    """
    footer = _footer_start(data)
    pages, view = max(0, footer - DIGEST_BYTES), memoryview(data)
    if data[pages:footer] != _digest(view[:pages], view[footer:]):
        raise pa.ArrowInvalid("its bytes changed since they were written")
    # On this thread alone: a thread of arrow's that still holds the bytes when Python ends aborts the process.
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
    if without:
        columns = [name for name in file.schema_arrow.names if name not in without]
    table = file.read(columns, use_threads=False)
    return table if columns is None else table.select(columns)


def _footer_start(data: bytes | memoryview) -> int:
    return max(0, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))


def _digest(pages: bytes | memoryview, footer: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(pages, digest_size=DIGEST_BYTES)
    digest.update(footer)
    return digest.digest()


def to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def write_ipc(table: pa.Table, file: BinaryIO) -> None:
    """As `to_ipc`, to an open file, without a copy in memory."""
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def from_ipc(data: bytes | pa.Buffer) -> pa.Table:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def row_bytes(table: pa.Table) -> I64:
    """About how many bytes each row has in memory, (N,); the same however rows are cut into tables."""
    sizes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        sizes += np.concatenate([sizes[:0], *map(_value_bytes, column.chunks)])  # one array may be too long for Arrow
    return sizes


OFFSET_BYTES = 4
BYTES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def _value_bytes(values: pa.Array) -> I64:
    if isinstance(values, pa.ExtensionArray):
        return _value_bytes(values.storage)
    if isinstance(values, pa.StructArray):
        return sum(map(_value_bytes, values.flatten()), np.zeros(len(values), np.int64))
    if isinstance(values, pa.MapArray):
        return _value_bytes(values.cast(pa.list_(pa.struct([values.type.key_field, values.type.item_field]))))
    if isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        lengths = _lengths(pc.list_value_length(values))
        total = np.concatenate(([0], np.cumsum(_value_bytes(values.flatten()))))
        ends = np.cumsum(lengths)
        return total[ends] - total[ends - lengths] + OFFSET_BYTES
    if any(is_bytes(values.type) for is_bytes in BYTES):
        return _lengths(pc.binary_length(values)) + OFFSET_BYTES
    return np.full(len(values), 8)


def _lengths(lengths: pa.Array) -> I64:
    return (lengths.fill_null(0) if lengths.null_count else lengths).to_numpy().astype(np.int64)

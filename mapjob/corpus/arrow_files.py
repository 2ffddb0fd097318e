"""Arrow files and streams, as `datasets` saves them, read so that nothing they name can run (see footers.py)."""

from typing import BinaryIO

import pyarrow as pa

from mapjob.corpus.footers import BLIND_KEY, NAME_KEY, check_extensions, without_views

_FILE_START, _MESSAGE_START, _END = b"ARROW1\0\0", b"\xff" * 4, b"\xff" * 4 + b"\0" * 4
_LONGEST_SCHEMA = 64 << 20


def read_arrow(file: BinaryIO, where: str) -> pa.Table:
    """The rows of an Arrow file or stream; the file is the stream between marks.

    Raises InputError for extension types, an ArrowException for what is no Arrow, or cut off.
    """
    start = file.read(8)
    if start == _FILE_START:
        start = file.read(8)
    length = int.from_bytes(start[4:], "little")
    if start[:4] != _MESSAGE_START or length > _LONGEST_SCHEMA:
        raise pa.ArrowInvalid("it does not begin as Arrow does")
    blinded = _Behind(start + file.read(length).replace(NAME_KEY, BLIND_KEY), file)
    with pa.ipc.open_stream(pa.PythonFile(blinded, "r")) as reader:
        check_extensions(reader.schema, where)
        table = pa.Table.from_batches(list(reader), reader.schema)
    if blinded.tail != _END:
        raise pa.ArrowInvalid("it does not end as Arrow does, so it is cut off")
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key == b"huggingface"}
    return table.cast(without_views(table.schema)).replace_schema_metadata(metadata)


class _Behind:
    """A file with other bytes at its start; `tail` is the last of what was read."""

    closed = False

    def __init__(self, start: bytes, file: BinaryIO):
        self._start, self._file, self.tail = start, file, b""

    def read(self, size: int) -> bytes:
        data, self._start = self._start[:size], self._start[size:]
        if len(data) < size:
            data += self._file.read(size - len(data))
        self.tail = (self.tail + data[-8:])[-8:]
        return data

    def close(self) -> None:
        pass

"""Files that are no Parquet: written once as Parquet under the output, named by their content, and read as ever."""

import gzip
import hashlib
import io
import zlib
from functools import cached_property
from typing import BinaryIO

import pyarrow as pa

from mapjob.corpus.arrow_files import read_arrow
from mapjob.corpus.footers import read_file
from mapjob.corpus.listing import Form, Listed
from mapjob.corpus.marks import mark_now
from mapjob.corpus.row_types import to_table
from mapjob.corpus.text_forms import csv_rows, json_rows, with_numbers
from mapjob.errors import IncompleteError, InputError
from mapjob.store.scratch import process_folder
from mapjob.store.storage import Storage
from mapjob.store.tables import chunks_to_parquet

VERSION = 1  # of how files are converted: part of the names, so that another way makes other files
BLOCK_BYTES = 8 << 20  # of one request


class Conversions:
    """Converted files, `inputs/<content>.parquet`.

    output: the folder that they are kept under; null: a folder that is gone when this process ends.
    """

    def __init__(self, output: str | None):
        self._output, self.written = output, 0

    @property
    def folder(self) -> str:
        """For people."""
        return f"{self._output}/inputs" if self._output is not None else "a temporary folder"

    @cached_property
    def _storage(self) -> Storage:
        return Storage(self._output if self._output is not None else process_folder())

    @cached_property
    def _names(self) -> set[str]:
        return set(self._storage.names("inputs"))

    def has(self, content: str) -> bool:
        return f"{content}.parquet" in self._names

    def path(self, content: str) -> str:
        root = self._storage.root if self._storage.is_local else self._storage.url
        return f"{root}/inputs/{content}.parquet"

    def convert(self, file: Listed) -> str:
        """Write the file as Parquet, if its content was not converted before; returns the name of the content.

        Raises InputError for content that is malformed, IncompleteError if the file changes meanwhile.
        """
        content, data = read_file(file.url, lambda source: _convert(source, file), UNREADABLE, file.url)
        if mark_now(file.url) != file.mark:
            raise IncompleteError("the file changed while it was read", file.url, "run the same command again")
        if not self.has(content):
            self._storage.create(f"inputs/{content}.parquet", data)
            self._names.add(f"{content}.parquet")
            self.written += 1
        return content


UNREADABLE = "this file cannot be read"


def _convert(source: BinaryIO, file: Listed) -> tuple[str, bytes]:
    """(name of the content, Parquet)."""
    hashed = _Hashed(source, f"{VERSION}\0{file.form}\0")
    raw = io.BufferedReader(hashed, BLOCK_BYTES)
    is_packed = file.url.lower().endswith(".gz")
    try:
        data = chunks_to_parquet(_parse(gzip.GzipFile(fileobj=raw) if is_packed else raw, file.form, file.url))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        do = "replace the file or take it out of input.path"
        raise InputError(f"not a whole gzip file: {error}", file.url, do) from None
    while raw.read(BLOCK_BYTES):  # the name covers what follows the last row too
        pass
    return hashed.hash.hexdigest()[:32], data


def _parse(file: BinaryIO, form: Form, where: str) -> pa.Table:
    if form == "arrow":
        return read_arrow(file, where)
    if form in ("csv", "tsv"):
        return with_numbers(to_table(csv_rows(file, "," if form == "csv" else "\t", where), where))
    return to_table(json_rows(file, where), where)


class _Hashed(io.RawIOBase):
    """A file that is read from start to end, with the hash of what was read."""

    def __init__(self, file: BinaryIO, start: str):
        self._file, self.hash = file, hashlib.sha256(start.encode())

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.hash.update(data)
        return len(data)

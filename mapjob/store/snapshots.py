"""What was found out once and need not be found out again: whole tables in `plans/`, the newest of each name counts."""

import re
from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa

from mapjob.store.storage import Storage
from mapjob.store.tables import from_parquet, to_parquet

FOLDER = "plans"
NAME = re.compile(r"(.+)-(\d{6})\.parquet")


class Snapshots:
    """The tables `plans/<name>-<number>.parquet` of an output. A cache: any of them may be removed at any time.

    Writers that work side by side take the same number, and the first of them is kept: the others' knowledge is found
    out again.
    """

    def __init__(self, output_url: str, name: str):
        self._storage, self._name = Storage(output_url), name
        self._number = newest_numbers(self._storage.names(FOLDER)).get(name, -1)

    def read(self) -> pa.Table | None:
        """The newest table; None if there is none, or its file is damaged."""
        data = self._storage.read(self._file(self._number)) if self._number >= 0 else None
        try:
            return None if data is None else from_parquet(data)
        except (pa.ArrowException, OSError):
            return None

    def write(self, table: pa.Table) -> None:
        """Make this the newest table."""
        self._number += 1
        self._storage.create(self._file(self._number), to_parquet(table))

    def _file(self, number: int) -> str:
        return f"{FOLDER}/{self._name}-{number:06}.parquet"


def read_every(output_url: str, name: str) -> Iterator[tuple[str, pa.Table]]:
    """(file below the output, table) of every table whose name begins so, the older ones too; damaged ones left out."""
    storage = Storage(output_url)
    for file in storage.names(FOLDER):
        match = NAME.fullmatch(file)
        if match is None or not match[1].startswith(name):
            continue
        with suppress(pa.ArrowException, OSError, TypeError):
            yield f"{FOLDER}/{file}", from_parquet(storage.read(f"{FOLDER}/{file}"))


def newest_numbers(files: list[str]) -> dict[str, int]:
    """Name -> number of its newest table. files: in `plans/`, others may be among them."""
    newest: dict[str, int] = {}
    for match in filter(None, map(NAME.fullmatch, files)):
        newest[match[1]] = max(int(match[2]), newest.get(match[1], -1))
    return newest

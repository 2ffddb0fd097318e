"""Rows that were made to leave an output: where they lay, never what they held.

`forgotten/<number>.json` is written before anything of its rows is touched, `<number>.done` when nothing of them is
left.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.errors import ConfigError, Reason
from mapjob.store.storage import Storage

FOLDER = "forgotten"
Rows = Mapping[str, Sequence[int]]  # rows by unit, ascending


class Forgotten:
    """What was forgotten in an output, as it was when this was made."""

    def __init__(self, output_url: str):
        self._storage = Storage(output_url).below(FOLDER)
        self._names = self._storage.names()

    @cached_property
    def _entries(self) -> dict[str, dict[str, Any]]:
        names = [name for name in self._names if name.endswith(".json")]
        return {name.removesuffix(".json"): json.loads(self._storage.read(name) or b"") for name in names}

    @property
    def rows(self) -> Rows:
        """All rows that were forgotten, or are being forgotten."""
        return merge_rows(entry["units"] for entry in self._entries.values())

    @property
    def unfinished(self) -> list[str]:
        """Names of those that were begun, and did not end."""
        return [name for name in self._entries if f"{name}.done" not in self._names]

    def resume(self, request: Iterable[str]) -> Rows | None:
        """The rows of an unfinished one that was asked for the same; None if there is none.

        Raises ConfigError if one that was asked for something else did not end.
        """
        for name in self.unfinished:
            entry = self._entries[name]
            if entry["request"] != _digest(entry["salt"], request):
                do = "run it again with what it was given then"
                raise ConfigError("an earlier `mapjob forget` has not ended", f"{self._storage.url}/{name}.json", do)
            return entry["units"]
        return None

    def begin(self, request: Iterable[str], rows: Rows) -> None:
        """Write down which rows are to leave. Nothing of the request itself is written but a salted hash."""
        salt = secrets.token_hex(16)
        entry = {"salt": salt, "request": _digest(salt, request), "units": {unit: list(rows[unit]) for unit in rows}}
        number = 1 + max((int(name) for name in self._entries), default=0)
        self._storage.create(f"{number:06}.json", json.dumps(entry).encode())

    def end(self) -> None:
        """Nothing is left of the rows of those that were begun."""
        for name in Forgotten(self._storage.url.removesuffix(f"/{FOLDER}")).unfinished:
            self._storage.create(f"{name}.done", b"")


def _digest(salt: str, request: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps([salt, *sorted(request)]).encode()).hexdigest()


def merge_rows(parts: Iterable[Rows]) -> dict[str, list[int]]:
    merged: dict[str, set[int]] = {}
    for part in parts:
        for unit, rows in part.items():
            merged.setdefault(unit, set()).update(rows)
    return {unit: sorted(merged[unit]) for unit in sorted(merged)}


def blank(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """A unit's columns with nothing left of these rows but their place and that they were forgotten."""
    if not len(rows):
        return table
    is_gone = np.zeros(table.num_rows, bool)
    is_gone[list(rows)] = True
    columns = table.take(pa.array(np.arange(table.num_rows), mask=is_gone))
    reason = pc.if_else(pa.array(is_gone), Reason.FORGOTTEN.value, table["reason"])
    for name, kept in {"reason": reason, **({"row": table["row"]} if "row" in table.column_names else {})}.items():
        columns = columns.set_column(columns.column_names.index(name), table.schema.field(name), kept)
    return columns

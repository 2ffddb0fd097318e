"""What is known of files and units since an earlier run, so that a normal night reads no old bytes."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from mapjob.corpus.listing import Listed
from mapjob.corpus.units import SourceFile, Unit
from mapjob.store.snapshots import Snapshots
from mapjob.store.tables import from_ipc, to_ipc

VERSION = 1  # of how files are looked at and converted: what another version found out is found out again
FILES = pa.schema(
    {
        "url": pa.string(),
        "mark": pa.string(),
        "content": pa.string(),
        "schema": pa.binary(),
        "row_groups": pa.list_(pa.int64()),
        "features": pa.string(),
        "filled": pa.list_(pa.string()),
        "head": pa.large_binary(),
    }
)
UNITS = pa.schema(
    {
        "file": pa.string(),
        "identity": pa.string(),
        "start": pa.int64(),
        "stop": pa.int64(),
        "rows_per_unit": pa.int64(),
        "id": pa.string(),
    }
)


class KnownFiles:
    """Files as they were looked at before, by URL and mark. output: None: none is known, and none is kept."""

    def __init__(self, output: str | None):
        self._snapshots = None if output is None else Snapshots(output, f"files.{VERSION}")
        table = self._snapshots.read() if self._snapshots else None
        rows = [] if table is None or table.schema.names != FILES.names else table.to_pylist()
        self._rows: dict[str, dict[str, Any]] = {row["url"]: row for row in rows}

    def find(self, file: Listed) -> SourceFile | None:
        """The file, but for its path and name; None if it is new, has changed, or has no mark."""
        row = self._rows.get(file.url)
        if row is None or file.mark is None or row["mark"] != file.mark:
            return None
        return SourceFile(
            file.url,
            file,
            row["content"],
            pa.ipc.read_schema(pa.py_buffer(row["schema"])),
            tuple(row["row_groups"]),
            features=json.loads(row["features"]),
            filled=frozenset(row["filled"]),
            head=None if row["head"] is None else from_ipc(row["head"]),
        )

    def keep(self, files: Iterable[SourceFile]) -> None:
        """Write down what is known now, if these files tell anything new."""
        rows = self._rows | {file.listed.url: _as_row(file) for file in files if file.listed.mark is not None}
        if self._snapshots is not None and rows != self._rows:
            self._rows = rows
            self._snapshots.write(pa.Table.from_pylist([rows[url] for url in sorted(rows)], FILES))


def _as_row(file: SourceFile) -> dict[str, Any]:
    return {
        "url": file.listed.url,
        "mark": file.listed.mark,
        "content": file.content,
        "schema": file.schema.serialize().to_pybytes(),
        "row_groups": list(file.row_groups),
        "features": json.dumps(file.features),
        "filled": sorted(file.filled),
        # Texts are kept only if reading them costs requests: first rows of at most three remote files a plan.
        "head": None if file.head is None or "://" not in file.listed.url else to_ipc(file.head),
    }


class KnownUnits:
    """Ids of units that were read before, by file and row range. reading: names how rows are read, which ids depend on.

    output: None: none is known, and none is kept.
    """

    def __init__(self, output: str | None, reading: str):
        self._snapshots = None if output is None else Snapshots(output, f"units.{VERSION}-{reading}")
        table = self._snapshots.read() if self._snapshots else None
        if table is None or table.schema.names != UNITS.names:
            table = UNITS.empty_table()
        file, identity, start, stop, rows_per_unit, ids = (column.to_pylist() for column in table.columns)
        self._ids = dict(zip(zip(file, identity, start, stop), ids))
        self._rows_per_unit = dict(zip(zip(file, identity), rows_per_unit))

    def name(self, unit: Unit) -> Unit:
        """The unit with its id, if that is known."""
        return replace(unit, id=self._ids.get((unit.file, unit.identity, unit.start, unit.stop), ""))

    def rows_per_unit(self, file: SourceFile) -> int | None:
        """By which the file was cut before; None for a new one."""
        return self._rows_per_unit.get((file.path, file.identity))

    def keep(self, units: Iterable[Unit], rows_per_unit: dict[str, int]) -> None:
        """Write down what is known now, if these units tell anything new. rows_per_unit: by file."""
        named = [unit for unit in units if unit.id and unit.identity is not None]
        now = {unit.file: unit.identity for unit in named}
        ids = {key: unit_id for key, unit_id in self._ids.items() if now.get(key[0], key[1]) == key[1]}
        ids |= {(unit.file, unit.identity, unit.start, unit.stop): unit.id for unit in named}
        if self._snapshots is None or ids == self._ids:
            return
        self._ids = ids
        self._rows_per_unit |= {(unit.file, unit.identity): rows_per_unit[unit.file] for unit in named}
        keys = sorted(ids)
        columns = [[key[part] for key in keys] for part in range(4)]  # no row as a tuple: a corpus has many
        columns += [[self._rows_per_unit[key[:2]] for key in keys], [ids[key] for key in keys]]
        self._snapshots.write(pa.table(columns, schema=UNITS))

"""What is known of files and units since an earlier run, so that a normal night reads no old bytes."""

import json
import math
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

import pyarrow as pa

from mapjob.corpus.listing import Listed
from mapjob.corpus.units import SourceFile, Unit
from mapjob.errors import ConfigError
from mapjob.store.snapshots import Snapshots, read_every
from mapjob.store.storage import Storage
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


class KnownOutput:
    """Every list of files and units in an output, the older ones too."""

    def __init__(self, output: str):
        self._output = Storage(output)
        self.lists = {name: table for kind in ("files.", "units.") for name, table in read_every(output, kind)}
        files = [table.select(["url", "content", "row_groups"]) for table in self._tables(FILES)]
        self._files = [row for table in files for row in table.to_pylist()]

    def _tables(self, schema: pa.Schema) -> list[pa.Table]:
        return [table for table in self.lists.values() if table.schema.names == schema.names]

    def find_source(self, source: str) -> tuple[str, set[str]]:
        """(URL, ids of all units that were read of it) of a file, by its URL or the end of it.

        Raises ConfigError unless just one file is called so.
        """
        source = source if "://" in source else source.removeprefix("./")
        urls = {row["url"] for row in self._files if row["url"] == source or row["url"].endswith(f"/{source}")}
        if len(urls) != 1:
            what = (
                f"{len(urls)} files of the corpus are called so"
                if urls
                else "no file of the corpus is known by this name"
            )
            do = (
                f"give one of {', '.join(sorted(urls)[:5])}"
                if urls
                else "give its URL, or its name as errors/ has it; or --ids"
            )
            raise ConfigError(what, f"--source {source}", do)
        (url,) = urls
        contents = {row["content"] for row in self._files if row["url"] == url and row["content"]}
        units = {row["id"] for row in self._units() if row["file"] == url or _content(row["file"]) in contents}
        return url, units

    def _units(self) -> Iterator[dict[str, Any]]:
        for table in self._tables(UNITS):
            yield from table.select(["file", "start", "stop", "id"]).to_pylist()

    def converted_with(self, units: AbstractSet[str]) -> list[str]:
        """Files below the output that hold, or may hold, rows of these units: converted ones."""
        names = self._output.names("inputs")
        ranges: dict[str, dict[tuple[int, int], str]] = {}
        for row in self._units() if names else ():
            ranges.setdefault(_content(row["file"]), {})[row["start"], row["stop"]] = row["id"]
        rows = {row["content"]: sum(row["row_groups"]) for row in self._files}

        def is_free(content: str) -> bool:
            known = ranges.get(content, {})
            covered = 0
            for start, stop in sorted(known):
                covered = max(covered, stop) if start <= covered else covered
            return covered >= rows.get(content, math.inf) and units.isdisjoint(known.values())

        return [f"inputs/{name}" for name in names if not is_free(name.removesuffix(".parquet"))]

    def heads(self) -> Iterator[tuple[str, pa.Table]]:
        """(name, the list without them) of the lists that hold first rows of files."""
        for name, table in self.lists.items():
            if "head" in table.column_names and table["head"].null_count < len(table):
                nulls = pa.nulls(len(table), table.schema.field("head").type)
                yield name, table.set_column(table.column_names.index("head"), table.schema.field("head"), nulls)


def _content(file: str) -> str:
    """The content that a converted file is named by; "" for a file of the corpus."""
    folder, _, name = file.rpartition("/")
    return name.removesuffix(".parquet") if folder.endswith("/inputs") else ""

"""The score store: one folder per scorer fingerprint, one Parquet file per unit, written once and never changed."""

import json
import logging
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import pyarrow as pa

from mapjob.errors import IncompleteError, MapjobError
from mapjob.store.forgotten import Forgotten, Rows, blank
from mapjob.store.packs import FEWEST_UNITS, FOLDER, Packs, one_by_one, pack, unpack
from mapjob.store.storage import Storage
from mapjob.store.tables import from_parquet, numbers_to_parquet

log = logging.getLogger(__name__)

READ_THREADS = 16
PACKS_AT_ONCE = 2  # one that is decoded, one that is read ahead
SUFFIX = ".parquet"


class ScoreStore:
    """Column files `scores/<fingerprint>/<unit>.parquet` below an output URL. A unit is done when its file exists."""

    def __init__(self, output_url: str):
        self.url = output_url
        self._storage = Storage(output_url).below("scores")
        self._packs = Packs(output_url)

    @cached_property
    def forgotten(self) -> Rows:
        """Rows that left this output, by unit, as they were known when this was first asked."""
        return Forgotten(self.url).rows

    def declare(self, fingerprint: str, description: dict[str, Any]) -> None:
        """Write in the clear, once, what a fingerprint covers."""
        text = json.dumps(description, indent=2, sort_keys=True) + "\n"
        self._storage.create(f"{fingerprint}/scorer.json", text.encode())

    def done(self, fingerprint: str) -> set[str]:
        """Ids of the units that have their column file."""
        names = self._storage.names(fingerprint)
        return {name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)}

    def commit(self, fingerprint: str, unit_id: str, table: pa.Table) -> bool:
        """Put a unit's columns, once, without rows that were forgotten. Returns False if another writer was first; its
        file is checked and adopted.
        """
        if unit_id in self.forgotten:
            table = blank(table, self.forgotten[unit_id])
        name = _file(fingerprint, unit_id)
        if self._storage.create(name, _encode(table, fingerprint, unit_id)):
            return True
        if self.read(fingerprint, unit_id).num_rows != table.num_rows:
            do = "the corpus changed while it was scored; remove this file and run again"
            raise MapjobError("two writers disagree about the rows of one unit", f"{self._storage.url}/{name}", do)
        return False

    def list_kinds(self) -> dict[str, str]:
        """Fingerprint -> kind of every column family that was declared."""
        declared = {name: self._storage.read(f"{name}/scorer.json") for name in self._storage.names()}
        return {name: json.loads(data).get("kind", "") for name, data in declared.items() if data is not None}

    def list_packs(self, unit_ids: Iterable[str]) -> list[tuple[str, str]]:
        """(family, pack) of the packs that are stored and hold any of these units, or are not known to hold others."""
        wanted = set(unit_ids)
        stored = [
            (family, file.removesuffix(SUFFIX)) for family in self._storage.names() for file in self._packs_of(family)
        ]
        others = {name for name, known in self._packs.known.items() if wanted.isdisjoint(known.units)}
        return [(family, name) for family, name in stored if name not in others]

    def _packs_of(self, fingerprint: str) -> list[str]:
        return self._storage.names(f"{fingerprint}/{FOLDER}")

    def rewrite(self, fingerprint: str, unit_id: str, rows: Sequence[int]) -> None:
        """Leave nothing of these rows in the file of a unit."""
        table = self.read(fingerprint, unit_id)
        emptied = blank(table, rows)
        if not emptied.equals(table):
            self._storage.replace(_file(fingerprint, unit_id), _encode(emptied, fingerprint, unit_id))

    def rewrite_pack(self, fingerprint: str, name: str, rows: Rows) -> None:
        """Leave nothing of these rows in a pack; one that is not as it was written is removed."""
        file, known = _pack_file(fingerprint, name), self._packs.known.get(name)
        units = known.units if known else ()
        try:
            tables = unpack(self._storage.read(file), fingerprint, name, units, ()) if known else []
        except (pa.ArrowException, OSError):
            tables = []
        if not tables:
            self._storage.remove(file)
            return
        emptied = [blank(table, rows.get(unit, ())) for unit, table in zip(units, tables)]
        if any(not new.equals(old) for new, old in zip(emptied, tables)):
            self._storage.replace(file, pack(fingerprint, units, emptied))

    def read(self, fingerprint: str, unit_id: str) -> pa.Table:
        """A unit's columns, row-aligned with the unit. Raises MapjobError if the file is missing or not its own."""
        return self._decode(self._storage.read(_file(fingerprint, unit_id)), fingerprint, unit_id)

    def _decode(self, data: bytes | None, fingerprint: str, unit_id: str, without: Collection[str] = ()) -> pa.Table:
        where = f"{self._storage.url}/{_file(fingerprint, unit_id)}"
        if data is None:
            raise IncompleteError(
                "a column file is missing", where, "`mapjob run` with the same run file scores it again"
            )
        try:
            table = from_parquet(data, without=without)
        except (pa.ArrowException, OSError) as error:
            raise MapjobError(f"a column file is damaged: {error}", where, "remove it and run again") from None
        metadata = table.schema.metadata or {}
        if metadata.get(b"mapjob.scorer") != fingerprint.encode() or metadata.get(b"mapjob.unit") != unit_id.encode():
            raise MapjobError("a column file belongs to another unit or scorer", where, "remove it and run again")
        return table.replace_schema_metadata(None)

    def read_all(
        self, fingerprint: str, unit_ids: Collection[str], without: Collection[str] = ()
    ) -> Iterator[pa.Table]:
        """The columns of many units, in the order asked for; raises as `read` does. At most 16 are read ahead.

        They come from packs where most of a pack is asked for at once, as slices of one table. without: columns that
        are not decoded.
        """
        return self._read_ahead(fingerprint, self._packs.split(fingerprint, unit_ids), without)

    def _read_ahead(
        self, fingerprint: str, split: Iterable[tuple[str | None, list[str]]], without: Collection[str] = ()
    ) -> Iterator[pa.Table]:
        """split: units by pack, or one unit by None."""
        threads = ThreadPoolExecutor(READ_THREADS)
        try:
            ahead: deque[tuple[str | None, list[str], Future[bytes | None]]] = deque()

            def first() -> Iterator[pa.Table]:
                # Decoded here: threads that decode wait for each other in Python most of the time.
                name, units, data = ahead.popleft()
                if name is None:
                    return iter([self._decode(data.result(), fingerprint, units[0], without)])
                return self._unpack(data.result(), fingerprint, name, units, without)

            for name, units in split:
                file = _file(fingerprint, units[0]) if name is None else _pack_file(fingerprint, name)
                ahead.append((name, units, threads.submit(self._storage.read, file)))
                while len(ahead) >= (READ_THREADS if name is None else PACKS_AT_ONCE):
                    yield from first()
            while ahead:
                yield from first()
        finally:
            # Without a join: what an error leaves behind is closed by the garbage collector, at times in the middle of
            # the start of another thread, whose lock a join would wait for, for ever.
            threads.shutdown(wait=False, cancel_futures=True)

    def _unpack(
        self, data: bytes | None, fingerprint: str, name: str, unit_ids: list[str], without: Collection[str]
    ) -> Iterator[pa.Table]:
        """From the files of the units, with a warning, if the pack cannot be read."""
        try:
            return iter(unpack(data, fingerprint, name, unit_ids, without))
        except (pa.ArrowException, OSError) as error:
            where = f"{self._storage.url}/{_pack_file(fingerprint, name)}"
            do = "the files of its units are read instead; once it is removed, a later run writes it again"
            log.warning(f"a pack is not as it was written ({error}): {where}; {do}")
            self._packs.pass_over(fingerprint, name)
            return self._read_ahead(fingerprint, one_by_one(unit_ids), without)

    def by_pack(self, unit_ids: Iterable[str]) -> list[str]:
        """These units in an order in which `read_all` reads few files."""
        return sorted(unit_ids, key=lambda unit: (self._packs.pack_of.get(unit, ""), unit))

    def write_packs(self, fingerprints: Collection[str], units: Mapping[str, int]) -> None:
        """Pack the columns of scored units that no pack has yet, from their files; a few wait for further ones.

        units: rows by id, in the plan's order. At most the columns of one pack are held.
        """
        if len(units) < FEWEST_UNITS:
            return
        names = {fingerprint: self._packs_of(fingerprint) for fingerprint in fingerprints}
        stored = {fingerprint: {name.removesuffix(SUFFIX) for name in names[fingerprint]} for fingerprint in names}
        packs = self._packs.plan(units, stored)
        lacking = [(name, fingerprint) for name in packs for fingerprint in stored if name not in stored[fingerprint]]
        if lacking:
            log.info(f"putting the columns of many units into one file: {len(lacking):,} files")
        for name, fingerprint in lacking:
            ids = packs[name].units
            tables = self._read_ahead(fingerprint, one_by_one(ids))
            self._storage.create(_pack_file(fingerprint, name), pack(fingerprint, ids, tables))
        self._packs.keep(packs)


def _encode(table: pa.Table, fingerprint: str, unit_id: str) -> bytes:
    return numbers_to_parquet(table.replace_schema_metadata({"mapjob.scorer": fingerprint, "mapjob.unit": unit_id}))


def _file(fingerprint: str, unit_id: str) -> str:
    return f"{fingerprint}/{unit_id}{SUFFIX}"


def _pack_file(fingerprint: str, name: str) -> str:
    return _file(f"{fingerprint}/{FOLDER}", name)

"""Packs: the columns of many units, put once more as one file per family, so that a ranking asks for few objects.

`scores/<fingerprint>/packs/<pack>.parquet`. A pack is named by its units, whatever the family; which packs there are is
a snapshot in `plans/`. The files of the units stay the truth.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa

from mapjob.store.snapshots import Snapshots
from mapjob.store.tables import chunks_to_parquet, from_parquet

FOLDER = "packs"
UNITS_PER_PACK, ROWS_PER_PACK = 250, 500_000  # at most, unless one unit has more rows
FEWEST_UNITS = FEWEST_PACKS = 8  # fewer wait for further ones
SCHEMA = pa.schema({"pack": pa.string(), "units": pa.list_(pa.string()), "families": pa.list_(pa.string())})


class Pack(NamedTuple):
    units: Sequence[str]
    families: frozenset[str]  # fingerprints of those that have it


class Packs:
    """The packs of an output, as they were known when they were first asked for."""

    def __init__(self, output_url: str):
        self._url = output_url

    def __getstate__(self) -> dict[str, str]:
        """Without what is known, which is of the whole output: a worker asks for it where it needs many units."""
        return {"_url": self._url}

    @cached_property
    def _snapshots(self) -> Snapshots:
        return Snapshots(self._url, FOLDER)

    @cached_property
    def known(self) -> dict[str, Pack]:
        table = self._snapshots.read()
        if table is None or table.schema.names != SCHEMA.names:
            return {}
        names, units, families = (column.to_pylist() for column in table.columns)
        return dict(zip(names, map(Pack, units, map(frozenset, families))))

    @cached_property
    def pack_of(self) -> dict[str, str]:
        """The pack of every unit that has one; the newest of several."""
        return _pack_of(self.known)

    def split(self, fingerprint: str, unit_ids: Collection[str]) -> Iterator[tuple[str | None, list[str]]]:
        """(pack, units), in the order asked for; (None, one unit), unless most of a pack is asked for at once."""
        if len(unit_ids) < FEWEST_UNITS:  # no reason to ask what packs there are
            yield from one_by_one(unit_ids)
            return
        for name, run in groupby(unit_ids, self.pack_of.get):
            units, pack = list(run), self.known.get(name or "")
            if pack and fingerprint in pack.families and 2 * len(units) > len(pack.units):
                yield name, units
            else:
                yield from one_by_one(units)

    def pass_over(self, fingerprint: str, name: str) -> None:
        """From here on this family does not have this pack."""
        pack = self.known[name]
        self.known[name] = pack._replace(families=pack.families - {fingerprint})

    def plan(self, units: Mapping[str, int], stored: Mapping[str, AbstractSet[str]]) -> dict[str, Pack]:
        """The packs that these units should have.

        units: rows by id, in the order of packs to come. stored: names of the packs that the store has, by family. A
        pack stays unless few of its units are left, or a family lacks it and some of its units are gone, or it is one
        of many small ones, as nights leave them: those become one.
        """
        used: dict[str | None, list[str]] = {}
        for unit in units:
            used.setdefault(self.pack_of.get(unit), []).append(unit)
        loose, packs = set(used.pop(None, ())), {}
        for name, left in used.items():
            pack = self.known[name or ""]
            is_stored, is_whole = all(name in names for names in stored.values()), units.keys() >= set(pack.units)
            if 2 * len(left) > len(pack.units) and (is_stored or is_whole):
                packs[name or ""] = pack._replace(families=pack.families.union(stored))
            else:
                loose.update(left)
        small = [name for name, pack in packs.items() if _is_small([units.get(unit, 0) for unit in pack.units])]
        if len(small) >= FEWEST_PACKS:
            for name in small:
                del packs[name]
                loose.update(used[name])
        if len(loose) >= FEWEST_UNITS:
            for ids in _cut({unit: num for unit, num in units.items() if unit in loose}):
                packs[_name(ids)] = Pack(ids, frozenset(stored))
        return packs

    def keep(self, packs: Mapping[str, Pack]) -> None:
        """Write down what is known now, if these packs tell anything new; others keep those units that these lack."""
        known = self.known | packs
        names = set(_pack_of(known).values())
        known = {name: pack for name, pack in known.items() if name in names}
        if known != self.known:
            columns = [list(known), *zip(*((pack.units, sorted(pack.families)) for pack in known.values()))]
            self._snapshots.write(pa.table(columns, schema=SCHEMA))
            self.known, self.pack_of = known, _pack_of(known)


def one_by_one(unit_ids: Iterable[str]) -> Iterator[tuple[None, list[str]]]:
    """As `Packs.split`, without any pack."""
    return ((None, [unit]) for unit in unit_ids)


def _pack_of(known: Mapping[str, Pack]) -> dict[str, str]:
    return {unit: name for name, pack in known.items() for unit in pack.units}


def _is_small(num_rows: Sequence[int]) -> bool:
    """Whether FEWEST_PACKS such packs are one. num_rows: of each of its units."""
    return FEWEST_PACKS * len(num_rows) <= UNITS_PER_PACK and FEWEST_PACKS * sum(num_rows) <= ROWS_PER_PACK


def _cut(units: Mapping[str, int]) -> Iterator[list[str]]:
    """The ids of each pack. units: rows by id, in order."""
    ids, num_rows = list[str](), 0
    for unit, num in units.items():
        if ids and (len(ids) == UNITS_PER_PACK or num_rows + num > ROWS_PER_PACK):
            yield ids
            ids, num_rows = [], 0
        ids.append(unit)
        num_rows += num
    yield ids


def _name(unit_ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(unit_ids).encode()).hexdigest()[:20]


def pack(fingerprint: str, unit_ids: Sequence[str], tables: Iterable[pa.Table]) -> bytes:
    """The file of a pack. tables: a family's columns of these units."""
    parts = list(tables)
    table = pa.concat_tables(parts)
    lengths = json.dumps([(unit, part.num_rows) for unit, part in zip(unit_ids, parts)])
    table = table.replace_schema_metadata({"mapjob.scorer": fingerprint, "mapjob.units": lengths})
    return chunks_to_parquet(table, use_dictionary=False, rows_per_group=max(1, table.num_rows))


def unpack(
    data: bytes | None, fingerprint: str, name: str, unit_ids: Sequence[str], without: Iterable[str]
) -> list[pa.Table]:
    """The columns of these units: slices of one table. Raises ArrowInvalid if this is not the file of that pack."""
    if data is None:
        raise pa.ArrowInvalid("missing")
    table = from_parquet(data, without=frozenset(without))
    metadata = table.schema.metadata or {}
    lengths = json.loads(metadata.get(b"mapjob.units", b"[]"))
    if metadata.get(b"mapjob.scorer") != fingerprint.encode() or _name([unit for unit, _ in lengths]) != name:
        raise pa.ArrowInvalid("of other units, or of another scorer")
    table, tables, start = table.replace_schema_metadata(None), {}, 0
    for unit, num_rows in lengths:
        tables[unit] = table.slice(start, num_rows)
        start += num_rows
    return [tables[unit] for unit in unit_ids]

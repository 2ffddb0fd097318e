"""Rows that were scored in another unit: found by their keys, so that only new rows meet a model.

What the store held when a run began to score is read once per scorer and pass, from start to end. What is held are the
keys of the pass's units and the columns of the rows that were found, never the store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.arrays import I64
from mapjob.pipeline.stages import Receipt, Todo, count_reasons
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.score_store import ScoreStore

Keys = npt.NDArray[np.bytes_]  # (N,), of 16 bytes


def take_stored(
    todo: Sequence[Todo], scorers: Sequence[ScorerSpec], records: str, store: ScoreStore, before: Mapping[str, set[str]]
) -> tuple[list[Todo], list[Receipt]]:
    """(what is left to do, with the columns of rows that another unit has; receipts of units that were completed so).

    records: the fingerprint under which the store has the row keys of these units. before: ids of the units to look in,
    by scorer: those that were there when the run began, or each pass would read what the passes before it wrote.
    """
    left, reasons = list(todo), dict[int, dict[str, dict[str, int]]]()
    for spec in scorers:
        indices = [index for index, item in enumerate(left) if spec.name in item.missing]
        units = [left[index].unit for index in indices]
        of_units = _find([unit.id for unit in units], records, spec.fingerprint, store, before[spec.name])
        for index, table in zip(indices, of_units):
            item = left[index]
            if table.num_rows == item.unit.num_rows:
                store.commit(spec.fingerprint, item.unit.id, table)
                left[index] = replace(item, missing=tuple(name for name in item.missing if name != spec.name))
                reasons.setdefault(index, {})[spec.name] = count_reasons(table)
            elif table.num_rows:
                left[index] = replace(item, stored={**item.stored, spec.name: table})
    done = [index for index in reasons if not left[index].missing]
    receipts = [Receipt(left[index].unit.id, left[index].unit.num_rows, reasons[index]) for index in done]
    return [item for item in left if item.missing], receipts


def _find(
    unit_ids: Sequence[str], records: str, fingerprint: str, store: ScoreStore, before: set[str]
) -> list[pa.Table]:
    """Of each unit the columns of its rows that other units have under this fingerprint, with their `row`, ascending.

    Rows that are no record have a reason and no score; they are among them where all others are.
    """
    nothing = [pa.table({"row": pa.array([], pa.int32())})] * len(unit_ids)
    if not unit_ids or not before:
        return nothing
    units = [table.select(["row_key", "reason", "detail"]) for table in store.read_all(records, unit_ids)]
    rows = [np.flatnonzero(table["row_key"].is_valid()) for table in units]
    keys = [_as_keys(table["row_key"]) for table in units]
    wanted = np.unique(np.concatenate(keys))
    if not len(wanted):  # no row of these units is a record
        return nothing
    stored, where = _collect(wanted, store, fingerprint, store.by_pack(before))
    return [_of_unit(*unit, stored, where[_index(wanted, unit[2])]) for unit in zip(units, rows, keys)]


def _collect(wanted: Keys, store: ScoreStore, fingerprint: str, done: Sequence[str]) -> tuple[pa.Table, I64]:
    """(the stored columns of rows with these keys, the position in it of each key, or -1). wanted: ascending."""
    where, parts, num_rows = np.full(len(wanted), -1), [], 0
    for table in store.read_all(fingerprint, done):
        rows = np.flatnonzero(table["row_key"].is_valid())
        index = _index(wanted, _as_keys(table["row_key"]))
        is_new = (index >= 0) & (where[index] < 0)
        index, first = np.unique(index[is_new], return_index=True)
        where[index] = num_rows + np.arange(len(index))
        if len(index) or not parts:  # the first one for its columns
            parts.append(table.take(pa.array(rows[is_new][first])))
        num_rows += len(index)
        if num_rows == len(wanted):
            break
    return pa.concat_tables(parts).combine_chunks(), where


def _of_unit(unit: pa.Table, rows: I64, keys: Keys, stored: pa.Table, where: I64) -> pa.Table:
    """The stored columns of a unit's rows. rows: those with keys; where: their positions in `stored`, or -1."""
    taken = _with_rows(stored.take(pa.array(where[where >= 0])), rows[where >= 0])
    if not stored.num_rows or (where < 0).any():
        return taken
    others = np.flatnonzero(unit["row_key"].is_null())
    refused = unit.take(pa.array(others))
    nulls = {name: pa.nulls(len(others), stored.schema.field(name).type) for name in stored.column_names}
    nulls |= {"reason": refused["reason"], "detail": refused["detail"]}
    return pa.concat_tables([taken, _with_rows(pa.table(nulls, schema=stored.schema), others)]).sort_by("row")


def _with_rows(table: pa.Table, rows: I64) -> pa.Table:
    return table.set_column(table.column_names.index("row"), "row", pa.array(rows, pa.int32()))


def _as_keys(column: pa.ChunkedArray) -> Keys:
    """Keys of a column, without nulls."""
    return np.frombuffer(b"".join(pc.drop_null(column).to_pylist()), "S16")


def _index(wanted: Keys, keys: Keys) -> I64:
    """Position of each key among those that are wanted, at least one, which ascend; -1 for any other."""
    index = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    return np.where(wanted[index] == keys, index, -1)

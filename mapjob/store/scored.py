"""The columns of a plan out of the score store, a unit at a time: scored pairs, and every other row with its reason."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.config import Selection
from mapjob.corpus.plan import Plan
from mapjob.errors import MapjobError, Reason
from mapjob.ranking.order import I64
from mapjob.ranking.pairing import best_worst, gather, labelled
from mapjob.ranking.pairs import Pairs, RankedPairs, gathered
from mapjob.store.score_store import ScoreStore
from mapjob.store.tables import to_ipc


@dataclass(frozen=True)
class ScoredUnit:
    """A unit as every model scored it: `rows` has pair_id, reason and detail of each row, `pairs` those without reason.

    `flags` counts rows whose text was truncated or whose boundary moved.
    """

    index: int  # of the unit in the plan
    first_row: int  # its position in the corpus
    rows: pa.Table
    pairs: Pairs
    flags: dict[str, int]


class ScoredUnits:
    """The units of a plan, read from the score store whenever they are asked for and never all held at once.

    families: name -> fingerprint, of the records and of every scorer. Reading raises MapjobError when a file is missing
    or damaged, or is not row-aligned with its unit.
    """

    def __init__(self, plan: Plan, families: dict[str, str], store: ScoreStore, selection: Selection):
        self.plan = plan
        self._families, self._store, self._selection = families, store, selection
        self._first_rows = plan.first_rows

    def read(self, indices: Sequence[int] | I64 | None = None) -> Iterator[ScoredUnit]:
        """The units at these indices of the plan, in this order; all of them where none are given."""
        indices = range(len(self.plan.units)) if indices is None else indices
        ids = [self.plan.units[index].id for index in indices]
        families = (self._store.read_all(fingerprint, ids) for fingerprint in self._families.values())
        for index, *tables in zip(indices, *families):
            yield self._unit(int(index), dict(zip(self._families, tables)))

    def pair_ids(self, positions: I64) -> pa.ChunkedArray:
        """pair_id of the rows at these positions of the corpus, which ascend."""
        edges = np.searchsorted(positions, self._first_rows)
        indices = np.flatnonzero(np.diff(edges))
        ids = [self.plan.units[index].id for index in indices]
        chunks = []
        for index, table in zip(indices, self._store.read_all(self._families["records"], ids)):
            rows = positions[edges[index] : edges[index + 1]] - self._first_rows[index]
            chunks += table["pair_id"].take(pa.array(rows)).chunks
        return pa.chunked_array(chunks, pa.string())

    def positions(self, pair_id: str) -> I64:
        """Positions in the corpus of the rows with this pair_id: one, but for exact repeats and ids that repeat."""
        found = (
            np.flatnonzero(pc.equal(u.rows["pair_id"], pair_id).fill_null(False)) + u.first_row for u in self.read()
        )
        return np.concatenate(list(found))

    def row(self, position: int) -> dict[str, str | None]:
        """pair_id, reason and detail of the row at a position of the corpus."""
        (unit,) = self.read([int(np.searchsorted(self._first_rows, position, side="right")) - 1])
        return unit.rows.slice(position - unit.first_row, 1).to_pylist()[0]

    def _unit(self, index: int, families: dict[str, pa.Table]) -> ScoredUnit:
        for name, table in families.items():
            self._check_aligned(index, name, table)
        reason, detail = _first_reason(list(families.values()))
        rows = pa.table({"pair_id": families["records"]["pair_id"], "reason": reason, "detail": detail})
        flags = {
            f"{name}.{flag}": int(pc.sum(table[flag]).as_py() or 0)
            for name, table in families.items()
            if name != "records"
            for flag in ("truncated", "boundary_moved")
        }
        valid = np.flatnonzero(reason.is_null().to_numpy(zero_copy_only=False))
        kept = {name: table.take(pa.array(valid)).combine_chunks() for name, table in families.items()}
        first_row = int(self._first_rows[index])
        pairs = _pairs(kept, valid + first_row, np.full(len(valid), index), self.plan.corpus.layout)
        if self._selection.on_disagreement == "relabel":
            pairs = pairs.relabelled()
        return ScoredUnit(index, first_row, rows, pairs, flags)

    def _check_aligned(self, index: int, name: str, table: pa.Table) -> None:
        unit = self.plan.units[index]
        if table.num_rows != unit.num_rows:
            raise MapjobError(
                f"{table.num_rows} rows of {name} were kept for a unit of {unit.num_rows}",
                f"unit {unit.id}: {unit.file}, rows {unit.start} to {unit.stop}",
                "remove the unit's files from the score store and run again",
            )


@dataclass(frozen=True)
class Scored:
    """A scored corpus as ranking holds it. `refused`: positions of the rows that scoring refused, by reason.

    `digest`: sixteen hex digits that change with any score or reason; another machine's scores give another selection.
    """

    units: ScoredUnits
    pairs: RankedPairs
    refused: dict[Reason, I64]
    flags: dict[str, int]  # over the corpus, as in ScoredUnit
    digest: str


def load_scored(units: ScoredUnits, selection: Selection) -> Scored:
    """Read every unit once, and keep of it what ranking and the account of rows need."""
    refused: dict[Reason, list[I64]] = {}
    flags: dict[str, int] = {}
    digest = hashlib.sha256()

    def pairs_by_unit() -> Iterator[Pairs]:
        for unit in units.read():
            for name, number in unit.flags.items():
                flags[name] = flags.get(name, 0) + number
            reasons = unit.rows["reason"].to_numpy()
            for reason in unit.rows["reason"].drop_null().unique().to_pylist():
                refused.setdefault(Reason(reason), []).append(np.flatnonzero(reasons == reason) + unit.first_row)
            digest.update(to_ipc(unit.rows.combine_chunks()))
            for name, values in unit.pairs.columns.items():
                digest.update(name.encode() + values.tobytes())
            yield unit.pairs

    pairs = gathered(pairs_by_unit(), units.plan.num_rows, selection)
    return Scored(
        units,
        pairs,
        {reason: np.concatenate(parts) for reason, parts in refused.items()},
        flags,
        digest.hexdigest()[:16],
    )


def _first_reason(families: Sequence[pa.Table]) -> tuple[pa.Array, pa.Array]:
    """(reason, detail) of each row by the first family that refused it; null where none did."""
    reason, detail = families[0]["reason"], families[0]["detail"]
    for table in families[1:]:
        refused = reason.is_valid()
        detail = pc.if_else(refused, detail, table["detail"])
        reason = pc.if_else(refused, reason, table["reason"])
    return reason.combine_chunks(), detail.combine_chunks()


def _pairs(families: dict[str, pa.Table], position: I64, unit: I64, layout: str) -> Pairs:
    identity = families["records"]
    num = identity["num_completions"].to_numpy().astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(num)))
    rewards = _flat(families["reward"], "rewards", offsets)
    chosen, rejected = best_worst(rewards, offsets) if layout == "candidates" else labelled(num)
    flat = {"reward": rewards, "logps": _flat(families["policy"], "logps", offsets)}
    flat["num_tokens"] = _flat(families["policy"], "num_tokens", offsets)
    columns = {}
    for name, values in flat.items():
        columns[f"chosen_{name}"] = gather(values, offsets, chosen)
        columns[f"rejected_{name}"] = gather(values, offsets, rejected)
    if "reference" in families:
        values = _flat(families["reference"], "logps", offsets)
        columns["ref_chosen_logps"] = gather(values, offsets, chosen)
        columns["ref_rejected_logps"] = gather(values, offsets, rejected)
    keys, first = _flat(identity, "completion_keys", offsets), offsets[:-1]
    content, prompt = np.stack([keys[first + chosen], keys[first + rejected]], axis=1), _keys(identity["prompt_key"])
    pair_id = identity["pair_id"].combine_chunks()
    return Pairs(position, unit, pair_id, content, prompt, chosen, rejected, columns)


def _flat(table: pa.Table, name: str, offsets: I64) -> npt.NDArray:
    values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(values) != offsets[-1]:
        raise MapjobError(f"the column {name} does not hold one value a completion", "the score store", "score again")
    return values


def _keys(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """16-byte keys as (N, 2) unsigned integers."""
    array = column.combine_chunks()
    values = np.frombuffer(array.buffers()[1] or b"", np.uint64, 2 * (array.offset + len(array)))
    return values.reshape(-1, 2)[array.offset :]

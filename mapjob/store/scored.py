"""The columns of a whole plan out of the score store: scored pairs as arrays, and every other row with its reason."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.corpus.plan import Plan
from mapjob.errors import MapjobError, Reason
from mapjob.ranking.order import I64
from mapjob.ranking.pairing import best_worst, gather, labelled
from mapjob.ranking.select import Pairs
from mapjob.store.score_store import ScoreStore
from mapjob.store.tables import to_ipc


@dataclass(frozen=True)
class Scored:
    """A scored corpus: `pairs` are the rows that every model scored, `errors` all others, in corpus order.

    errors: position, pair_id, reason, detail. `flags` counts rows whose text was truncated or whose boundary moved.
    """

    pairs: Pairs
    errors: pa.Table
    flags: dict[str, int]

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change with any score or reason: another machine's scores give another selection."""
        hashed = hashlib.sha256(to_ipc(self.errors.combine_chunks()))
        for name in sorted(self.pairs.columns):
            hashed.update(name.encode())
            hashed.update(np.ascontiguousarray(self.pairs.columns[name]))
        return hashed.hexdigest()[:16]


def load_scored(plan: Plan, records: str, scorers: dict[str, str], store: ScoreStore) -> Scored:
    """Read every column family (`scorers`: name -> fingerprint) of the plan's units.

    Raises MapjobError when a file is missing or damaged, or is not row-aligned with its unit.
    """
    ids = [unit.id for unit in plan.units]
    tables = {"records": store.read_all(records, ids)}
    tables |= {name: store.read_all(fingerprint, ids) for name, fingerprint in scorers.items()}
    for name, parts in tables.items():
        _check_aligned(plan, name, parts)
    families = {name: pa.concat_tables(parts).combine_chunks() for name, parts in tables.items()}
    reason, detail = _first_reason(list(families.values()))
    valid = reason.is_null().to_numpy(zero_copy_only=False)
    position = np.arange(plan.num_rows)
    identity = families["records"]
    errors = pa.table({"position": position, "pair_id": identity["pair_id"], "reason": reason, "detail": detail})
    flags = {
        f"{name}.{flag}": int(pc.sum(table[flag]).as_py() or 0)
        for name, table in families.items()
        if name != "records"
        for flag in ("truncated", "boundary_moved")
    }
    kept = pa.array(np.flatnonzero(valid))
    families = {name: table.take(kept).combine_chunks() for name, table in families.items()}
    unit = np.repeat(np.arange(len(plan.units)), [u.num_rows for u in plan.units])
    pairs = _pairs(families, position[valid], unit[valid], plan.corpus.layout)
    return Scored(pairs, errors.filter(pa.array(~valid)), flags)


def _check_aligned(plan: Plan, name: str, parts: Sequence[pa.Table]) -> None:
    for unit, table in zip(plan.units, parts):
        if table.num_rows != unit.num_rows:
            raise MapjobError(
                f"{table.num_rows} rows of {name} were kept for a unit of {unit.num_rows}",
                f"unit {unit.id}: {unit.file}, rows {unit.start} to {unit.stop}",
                "remove the unit's files from the score store and run again",
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
    data = b"".join(column.to_pylist())
    return np.frombuffer(data, np.uint64).reshape(-1, 2)


def count_reasons(errors: pa.Table) -> dict[Reason, int]:
    counted = pc.value_counts(errors["reason"]).to_pylist()
    return {Reason(item["values"]): item["counts"] for item in sorted(counted, key=lambda item: -item["counts"])}

"""A score store that holds what a test says, for every row of a plan; no model, no Ray."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from mapjob.config.selection import Selection
from mapjob.corpus.plan import Plan, read_unit
from mapjob.corpus.reader import read_records
from mapjob.corpus.records import Record
from mapjob.corpus.units import Unit
from mapjob.selection.scored import ScoredUnits
from mapjob.store.score_store import ScoreStore


def named(plan: Plan) -> Plan:
    """The plan with an id for every unit, without reading them."""
    return plan.with_ids({index: f"unit-{index}" for index in plan.unnamed})


def completion_keys(plan: Plan, unit: Unit) -> list[list[int]]:
    """Four per row: those of its completions, and others up to that."""
    records = read_records(read_unit(unit), plan.corpus.reading)
    keys = [record.completion_keys if isinstance(record, Record) else [] for record in records]
    return [[*own, *range(4 * i, 4 * i + 4)][:4] for i, own in enumerate(keys)]


def scored_units(
    plan: Plan,
    margins: np.ndarray | None = None,
    sides: tuple[int, int] = (0, 1),
    reasons: dict[int, tuple[str, str]] | None = None,
    on_disagreement: str = "keep",
) -> ScoredUnits:
    """Every row of the plan in a score store; the row at position i has the reward margin margins[i].

    sides: of the completions, which has the highest and which the lowest reward. reasons: of rows that are refused.
    """
    plan = named(plan)
    num, reasons = plan.num_rows, reasons or {}
    margins = np.random.default_rng(0).permutation(num) + 1.0 if margins is None else margins
    store = ScoreStore(tempfile.mkdtemp(dir=Path(plan.units[0].file).parents[1]))
    first = 0
    for unit in plan.units:
        rows = range(first, first + unit.num_rows)
        first += unit.num_rows
        rewards = [[{sides[0]: 0.5, sides[1]: -0.5}.get(side, 0.0) * margins[i] for side in range(4)] for i in rows]
        verdict = {"reason": [reasons.get(i, (None,))[0] for i in rows]}
        verdict["detail"] = [reasons.get(i, (None, None))[1] for i in rows]
        verdict = {name: pa.array(values, pa.string()) for name, values in verdict.items()}
        families = {
            "records": {
                "pair_id": pa.array([None if reasons.get(i, [""])[0] == "null_field" else f"id {i}" for i in rows]),
                "completion_keys": pa.array(completion_keys(plan, unit), pa.list_(pa.uint64())),
                "prompt_key": pa.array([i.to_bytes(16, "big") for i in rows], pa.binary(16)),
                "group": pa.nulls(len(rows), pa.string()),
                "num_completions": pa.array([4] * len(rows), pa.int32()),
                **verdict,
            },
            "policy": {"logps": [[-i - 1.5] + [-2.0] * 3 for i in rows], "num_tokens": [[3, 4, 4, 4]] * len(rows)},
            "reward": {"rewards": rewards},
        }
        for name in ("policy", "reward"):
            nothing = pa.nulls(len(rows), pa.string())
            families[name] |= {flag: [False] * len(rows) for flag in ("truncated", "boundary_moved", "text_not_kept")}
            families[name] |= {"reason": nothing, "detail": nothing}
        for name, columns in families.items():
            store.commit(name, unit.id, pa.table(columns))
    return ScoredUnits(plan, {name: name for name in families}, store, Selection(on_disagreement=on_disagreement))

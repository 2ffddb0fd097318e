"""What is left to do, in which passes, and what travels through the graph: blocks of one unit, receipts, the commit.

A block is one row: its unit, and per family of columns one binary cell (Arrow IPC). So a unit stays whole from read to
commit. No Ray here, since a run that finds every unit scored ends without it; no torch, since the commit needs none.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from mapjob.corpus.plan import Plan, Unit
from mapjob.scoring.reader_families import DerivedColumns
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.score_store import ScoreStore
from mapjob.store.tables import from_ipc, to_ipc


@dataclass(frozen=True)
class Todo:
    """A unit and the names of the column families (of the reader, or of a scorer) that it still lacks."""

    unit: Unit
    missing: tuple[str, ...]

    @property
    def row(self) -> dict[str, Any]:
        """The row that its block begins as."""
        return {"todo": json.dumps(asdict(self))}

    @classmethod
    def of(cls, block: pa.Table) -> "Todo":
        assert block.num_rows == 1, "a block carries one unit"
        tree = json.loads(block["todo"][0].as_py())
        return cls(Unit(**tree["unit"]), tuple(tree["missing"]))


def missing(plan: Plan, families: dict[str, str], store: ScoreStore) -> list[Todo]:
    """Every unit that lacks one of the families (name -> fingerprint), with the names of those, in plan order."""
    done = {name: store.done(fingerprint) for name, fingerprint in families.items()}
    todo = (Todo(unit, tuple(name for name in families if unit.id not in done[name])) for unit in plan.units)
    return [item for item in todo if item.missing]


def passes(
    schedule: str, derived: Sequence[DerivedColumns], scorers: Sequence[ScorerSpec], todo: Sequence[Todo]
) -> Iterator[tuple[list[ScorerSpec], list[Todo]]]:
    """(scorers that are resident at the same time, what their pass has to do): all together, or one model at a time."""
    needed = [s for s in scorers if any(s.name in item.missing for item in todo)]
    if schedule == "together" or not needed:
        yield needed, list(todo)
        return
    groups = by_base(needed)
    for group in groups:
        # The reader's own columns come with the first pass that reads the unit anyway.
        names = {s.name for s in group} | ({reader.name for reader in derived} if group is groups[0] else set())
        share = (Todo(item.unit, tuple(name for name in item.missing if name in names)) for item in todo)
        yield group, [item for item in share if item.missing]


def by_base(scorers: Sequence[ScorerSpec]) -> list[list[ScorerSpec]]:
    """Scorers that can share one model's weights, such as a LoRA policy and the reference under it, side by side."""
    groups: dict[object, list[ScorerSpec]] = {}
    for scorer in scorers:
        # A reward adapter is merged into its weights, which then are nobody else's.
        key: object = scorer.name if scorer.kind == "rewards" else scorer.base
        adapters = {s.files.adapter for s in (*groups.get(key, ()), scorer)} - {None}
        if len(adapters) > 1 and any(adapter.replaces_weights for adapter in adapters):
            key = scorer.base, scorer.files.adapter  # peft cannot turn such a one off for another one
        groups.setdefault(key, []).append(scorer)
    return list(groups.values())


COST = "cost"  # the column in which a table of scores carries what it cost


@dataclass(frozen=True)
class Cost:
    """What a scorer took for some rows, and how it ran its model.

    tokens: through the model, a prompt once for its completions. flop: of the layers alone, two per multiplication.
    peak_flop: what the GPU does at most in model_s; 0 if that is not known.
    """

    tokens: int
    model_s: float
    flop: float
    peak_flop: float
    engine: str  # in words

    def __add__(self, later: "Cost") -> "Cost":
        return Cost(
            self.tokens + later.tokens,
            self.model_s + later.model_s,
            self.flop + later.flop,
            self.peak_flop + later.peak_flop,
            later.engine,
        )


def with_cost(scores: pa.Table, cost: Cost) -> pa.Table:
    """The table with its cost in a struct column, in the first row alone: parts of a unit can be put together."""
    return scores.append_column(COST, pa.array([asdict(cost)] + [None] * (scores.num_rows - 1)))


def split_cost(scores: pa.Table) -> tuple[pa.Table, Cost | None]:
    """The inverse of `with_cost`: the table alone, and the sum over its parts; None if no model made it."""
    if COST not in scores.column_names:
        return scores, None
    first, *others = (Cost(**cost) for cost in scores[COST].drop_null().to_pylist())
    return scores.drop_columns(COST), sum(others, first)


@dataclass(frozen=True)
class Receipt:
    """What was committed of a unit: rows by reason of each family, in the order of the graph; cost of each scorer."""

    unit_id: str
    num_rows: int
    reasons: dict[str, dict[str, int]]
    costs: dict[str, Cost]

    @property
    def errors(self) -> dict[str, int]:
        """Rows that are not scored, by reason. What the reader refuses, every scorer refuses: the last has them all."""
        return next(reversed(self.reasons.values()), {})

    @property
    def row(self) -> dict[str, str]:
        """The row that comes out of the graph."""
        return {"receipt": json.dumps(asdict(self))}

    @classmethod
    def of(cls, row: dict[str, str]) -> "Receipt":
        tree = json.loads(row["receipt"])
        return cls(**{**tree, "costs": {name: Cost(**cost) for name, cost in tree["costs"].items()}})


class Commit:
    """unit with columns -> receipt; every family that the unit lacked becomes one file of the score store."""

    def __init__(self, output_url: str, families: Sequence[DerivedColumns | ScorerSpec]):
        self._store = ScoreStore(output_url)
        self._fingerprints = {spec.name: spec.fingerprint for spec in families}

    def __call__(self, block: pa.Table) -> pa.Table:
        todo = Todo.of(block)
        reasons, costs = {}, {}
        for name in todo.missing:
            table, cost = split_cost(from_ipc(block[name][0].as_buffer()))
            assert table.num_rows == todo.unit.num_rows, "columns are row-aligned with their unit"
            row = pa.array(range(table.num_rows), pa.int32())
            self._store.commit(self._fingerprints[name], todo.unit.id, table.add_column(0, "row", row))
            reasons[name] = dict(Counter(reason for reason in table["reason"].to_pylist() if reason))
            if cost is not None:
                costs[name] = cost
        return pa.Table.from_pylist([Receipt(todo.unit.id, todo.unit.num_rows, reasons, costs).row])


def tokens_column(encoding_key: str) -> str:
    return f"tokens.{encoding_key}"


def with_columns(block: pa.Table, columns: dict[str, pa.Table | None]) -> pa.Table:
    """The block with further columns: tables of its unit's rows, or null."""
    for name, table in columns.items():
        cell = pa.array([None if table is None else to_ipc(table)], pa.large_binary())
        block = block.append_column(name, cell)
    return block

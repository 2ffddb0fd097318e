"""What is left to do, in which passes, and what travels through the graph: blocks of one unit, receipts, the commit.

A block is one row: its unit, and per family of columns one binary cell (Arrow IPC). So a unit stays whole from read to
commit. No Ray here, since a run that finds every unit scored ends without it; no torch, since the commit needs none.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from mapjob.arrays import I64
from mapjob.corpus.plan import Plan
from mapjob.corpus.units import Unit
from mapjob.scoring.reader_families import DerivedColumns
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.score_store import ScoreStore
from mapjob.store.tables import from_ipc, to_ipc

NO_TABLES: Mapping[str, pa.Table] = {}  # one for all units of which nothing is stored


@dataclass(frozen=True, slots=True)  # the driver holds that of every unit
class Todo:
    """A unit and the names of the column families (of the reader, or of a scorer) that it still lacks.

    stored: by scorer, the columns of those of its rows that were scored in another unit, with their `row` in this one.
    """

    unit: Unit
    missing: tuple[str, ...]
    stored: Mapping[str, pa.Table] = field(default_factory=lambda: NO_TABLES)

    @property
    def row(self) -> dict[str, Any]:
        """The row that its block begins as."""
        cells = {name: pa.array([to_ipc(table)], pa.large_binary()) for name, table in self.stored.items()}
        return {
            "todo": json.dumps({"unit": asdict(self.unit), "missing": self.missing}),
            "stored": to_ipc(pa.table(cells)) if cells else b"",
        }

    @classmethod
    def of(cls, block: pa.Table) -> "Todo":
        assert block.num_rows == 1, "a block carries one unit"
        tree = json.loads(block["todo"][0].as_py())
        cells = block["stored"][0].as_buffer()
        stored = from_ipc(cells) if len(cells) else pa.table({})
        tables = {name: from_ipc(stored[name][0].as_buffer()) for name in stored.column_names}
        return cls(Unit(**tree["unit"]), tuple(tree["missing"]), tables)

    def rows_to_score(self, scorer: str) -> I64:
        """The rows of the unit that this scorer has to score, which ascend."""
        if scorer not in self.stored:
            return np.arange(self.unit.num_rows)
        return np.setdiff1d(np.arange(self.unit.num_rows), self.stored[scorer]["row"].to_numpy())


def missing(plan: Plan, families: dict[str, str], store: ScoreStore) -> list[Todo]:
    """Every unit that lacks one of the families (name -> fingerprint), with the names of those, in plan order.

    Units of the same rows are one; one without an id lacks all.
    """
    done = {name: store.done(fingerprint) for name, fingerprint in families.items()}
    units = {unit.id or (unit.file, unit.start): unit for unit in reversed(plan.units)}.values()
    lacking = ((unit, tuple(n for n in families if unit.id not in done[n])) for unit in reversed(units))
    same = {}  # units lack the same few combinations
    return [Todo(unit, same.setdefault(names, names)) for unit, names in lacking if names]


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
        share = (replace(item, missing=tuple(name for name in item.missing if name in names)) for item in todo)
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
    """What was committed of a unit: rows by reason of each family, in the order of the graph; cost of each scorer.

    scored: rows that met each scorer, and were not taken from another unit. named: the id that its rows gave the unit,
    if it had none.
    """

    unit_id: str
    num_rows: int
    reasons: dict[str, dict[str, int]]
    costs: dict[str, Cost] = field(default_factory=dict)
    scored: dict[str, int] = field(default_factory=dict)
    named: str = ""

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


KEYS = "keys"  # the column of a block with a table of its unit's row keys


class Commit:
    """unit with columns -> receipt; every family that the unit lacked becomes one file of the score store."""

    def __init__(self, output_url: str, derived: Sequence[DerivedColumns], scorers: Sequence[ScorerSpec]):
        self._store = ScoreStore(output_url)
        self._fingerprints = {spec.name: spec.fingerprint for spec in (*derived, *scorers)}
        self._scorers = {spec.name for spec in scorers}

    def __call__(self, block: pa.Table) -> pa.Table:
        todo = Todo.of(block)
        keys = from_ipc(block[KEYS][0].as_buffer())["row_key"]
        reasons, costs, scored = {}, {}, {}
        for name in todo.missing:
            table, cost = split_cost(from_ipc(block[name][0].as_buffer()))
            row = pa.array(todo.rows_to_score(name), pa.int32())
            assert table.num_rows == len(row), "columns are row-aligned with their unit"
            table = table.add_column(0, "row", row)
            if name in self._scorers:
                scored[name] = len(row) - keys.take(row).null_count
                table = with_stored(table.add_column(1, "row_key", keys.take(row)), todo.stored.get(name))
            self._store.commit(self._fingerprints[name], todo.unit.id, table)
            reasons[name] = count_reasons(table)
            if cost is not None:
                costs[name] = cost
        return pa.Table.from_pylist([Receipt(todo.unit.id, todo.unit.num_rows, reasons, costs, scored).row])


def with_stored(scored: pa.Table, stored: pa.Table | None) -> pa.Table:
    """Columns of a whole unit, in the order of its rows. stored: those of its rows that another unit has."""
    if stored is None:
        return scored
    return pa.concat_tables([scored, stored.select(scored.column_names)]).sort_by("row")


def count_reasons(table: pa.Table) -> dict[str, int]:
    """Rows that have no score, by reason."""
    return dict(Counter(reason for reason in table["reason"].to_pylist() if reason))


def tokens_column(encoding_key: str) -> str:
    return f"tokens.{encoding_key}"


def with_columns(block: pa.Table, columns: dict[str, pa.Table | None]) -> pa.Table:
    """The block with further columns: tables of its unit's rows, or null."""
    for name, table in columns.items():
        cell = pa.array([None if table is None else to_ipc(table)], pa.large_binary())
        block = block.append_column(name, cell)
    return block

"""What is left to do: the units that lack columns, and in which passes over them their scorers run.

No Ray here: a run that finds every unit scored ends without it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from mapjob.corpus.plan import Plan, Unit
from mapjob.scoring.reader_families import ReaderSpec
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
        return {**asdict(self.unit), "missing": json.dumps(self.missing)}

    @classmethod
    def of(cls, block: pa.Table) -> "Todo":
        assert block.num_rows == 1, "a block carries one unit"
        unit = Unit(**{name: block[name][0].as_py() for name in ("id", "file", "start", "stop", "identity")})
        return cls(unit, tuple(json.loads(block["missing"][0].as_py())))


def missing(plan: Plan, families: dict[str, str], store: ScoreStore) -> list[Todo]:
    """Every unit that lacks one of the families (name -> fingerprint), with the names of those, in plan order."""
    done = {name: store.done(fingerprint) for name, fingerprint in families.items()}
    todo = (Todo(unit, tuple(name for name in families if unit.id not in done[name])) for unit in plan.units)
    return [item for item in todo if item.missing]


def passes(
    schedule: str, readers: Sequence[ReaderSpec], scorers: Sequence[ScorerSpec], todo: Sequence[Todo]
) -> Iterator[tuple[list[ScorerSpec], list[Todo]]]:
    """(scorers that are resident at the same time, what their pass has to do): all together, or one model at a time."""
    needed = [s for s in scorers if any(s.name in item.missing for item in todo)]
    if schedule == "together" or not needed:
        yield needed, list(todo)
        return
    groups = by_base(needed)
    for group in groups:
        # The reader's own columns come with the first pass that reads the unit anyway.
        names = {s.name for s in group} | ({reader.name for reader in readers} if group is groups[0] else set())
        share = (Todo(item.unit, tuple(name for name in item.missing if name in names)) for item in todo)
        yield group, [item for item in share if item.missing]


def by_base(scorers: Sequence[ScorerSpec]) -> list[list[ScorerSpec]]:
    """Scorers that can share one model's weights, such as a LoRA policy and the reference under it, side by side."""
    groups: dict[object, list[ScorerSpec]] = {}
    for scorer in scorers:
        # A reward adapter is merged into its weights, which then are nobody else's.
        key = scorer.name if scorer.kind == "rewards" else scorer.base
        groups.setdefault(key, []).append(scorer)
    return list(groups.values())


# What travels through the graph, and its last stage: blocks of one unit, receipts, the commit. A block is one row:
# the unit in plain columns, and one binary column (Arrow IPC) for what the next stages need of it. So a unit stays
# whole from read to commit by construction. No torch here: the commit starts without it.


@dataclass(frozen=True)
class Receipt:
    """What was committed of a unit: for each family the rows by reason; for each scorer what it cost and how it ran."""

    unit_id: str
    num_rows: int
    reasons: dict[str, dict[str, int]]
    tokens: dict[str, int]
    model_s: dict[str, float]
    engines: dict[str, str]  # how each scorer ran its model, in words
    flop: dict[str, float] = field(default_factory=dict)  # of the layers alone, two a multiplication
    peak_flop: dict[str, float] = field(default_factory=dict)  # what its GPU does at most in that time, where known


class Commit:
    """unit with columns -> receipt; every family that the unit lacked becomes one file of the score store."""

    def __init__(self, output_url: str, families: Sequence[ReaderSpec | ScorerSpec]):
        self._store = ScoreStore(output_url)
        self._fingerprints = {spec.name: spec.fingerprint for spec in families}

    def __call__(self, block: pa.Table) -> pa.Table:
        todo = Todo.of(block)
        reasons, tokens, model_s, engines, flop, peak_flop = {}, {}, {}, {}, {}, {}
        for name in todo.missing:
            table = from_ipc(block[name][0].as_buffer())
            assert table.num_rows == todo.unit.num_rows, "columns are row-aligned with their unit"
            row = pa.array(range(table.num_rows), pa.int32())
            self._store.commit(self._fingerprints[name], todo.unit.id, table.add_column(0, "row", row))
            reasons[name] = dict(Counter(reason for reason in table["reason"].to_pylist() if reason))
            cost = table.schema.metadata or {}
            if b"tokens" in cost:
                tokens[name], model_s[name] = int(cost[b"tokens"]), float(cost[b"model_s"])
                engines[name] = cost[b"engine"].decode()
                flop[name], peak_flop[name] = float(cost[b"flop"]), float(cost.get(b"peak_flop", 0))
        receipt = Receipt(todo.unit.id, todo.unit.num_rows, reasons, tokens, model_s, engines, flop, peak_flop)
        return pa.table({"receipt": [json.dumps(asdict(receipt))]})


def tokens_column(encoding_key: str) -> str:
    return f"tokens.{encoding_key}"


def with_columns(block: pa.Table, columns: dict[str, pa.Table | None]) -> pa.Table:
    """The block with further columns: tables of its unit's rows, or null."""
    for name, table in columns.items():
        cell = pa.array([None if table is None else to_ipc(table)], pa.large_binary())
        block = block.append_column(name, cell)
    return block

"""What travels through the graph, and its last stage: blocks of one unit, receipts, the commit.

A block is one row: the unit in plain columns, and one binary column (Arrow IPC) for what the next stages need of it.
So a unit stays whole from read to commit by construction. No torch here: the commit starts without it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from mapjob.config import Output
from mapjob.pipeline.todo import Todo
from mapjob.scoring.reader_specs import ReaderSpec
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.score_store import ScoreStore
from mapjob.store.tables import from_ipc, to_ipc


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

    def __init__(self, output: Output, families: Sequence[ReaderSpec | ScorerSpec]):
        self._store = ScoreStore(output.path, output.content_names)
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

"""What is left to do: the units that lack columns, and in which passes over them their scorers run.

No Ray here: a run that finds every unit scored ends without it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from mapjob.corpus.plan import Plan, Unit
from mapjob.scoring.reader_specs import ReaderSpec
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.score_store import ScoreStore


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

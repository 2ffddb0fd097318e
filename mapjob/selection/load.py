"""A scored corpus, or a piece of one, as ranking holds it: read once from the score store."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc

from mapjob.arrays import I64
from mapjob.config.run import Selection
from mapjob.errors import Reason
from mapjob.ranking.gather import Gathered, collect, drop
from mapjob.ranking.pairs import Pairs, RankedPairs
from mapjob.selection.scored import ScoredUnits


@dataclass(frozen=True)
class Scored:
    """A scored piece of a corpus as ranking holds it. `refused`: positions of the rows that scoring refused, by reason.

    pairs: None until repeats are dropped.
    """

    units: ScoredUnits
    pairs: RankedPairs | None
    refused: dict[Reason, I64]
    flags: dict[str, int]  # counts, as in ScoredUnit


def read_scored(units: ScoredUnits, selection: Selection, extra_columns: Sequence[str] = ()) -> tuple[Scored, Gathered]:
    """Read every unit once, and keep what ranking and the count of rows need. extra_columns: as in `collect`."""
    units = copy.copy(units)  # which then keeps what it asked all pieces; a program that runs again asks again
    refused: dict[Reason, list[I64]] = {}
    flags: dict[str, int] = {}

    def pairs_by_unit() -> Iterator[Pairs]:
        for unit in units.read_numbers():
            for name, number in unit.flags.items():
                flags[name] = flags.get(name, 0) + number
            reasons = unit.rows["reason"].combine_chunks().dictionary_encode()
            for number, reason in enumerate(reasons.dictionary.to_pylist()):
                rows = np.flatnonzero(pc.equal(reasons.indices, number).fill_null(False))
                refused.setdefault(Reason(reason), []).append(rows + unit.first_row)
            yield unit.pairs

    gathered = collect(pairs_by_unit(), units.plan.num_rows, selection, units.rewards, extra_columns)
    return Scored(units, None, {reason: np.concatenate(parts) for reason, parts in refused.items()}, flags), gathered


def drop_repeats(read: tuple[Scored, Gathered], selection: Selection) -> Scored:
    """What `read_scored` read, as it is ranked."""
    scored, gathered = read
    return replace(scored, pairs=drop(gathered, selection))


def load_scored(units: ScoredUnits, selection: Selection, extra_columns: Sequence[str] = ()) -> Scored:
    """A corpus in one piece, as `read_scored` and `drop_repeats` have it."""
    return drop_repeats(read_scored(units, selection, extra_columns), selection)

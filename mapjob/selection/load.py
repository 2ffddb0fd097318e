"""A scored corpus, or a piece of one, as ranking holds it: read once from the score store."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc

from mapjob.arrays import I64
from mapjob.config.selection import Selection
from mapjob.corpus.plan import Plan
from mapjob.errors import Reason
from mapjob.ranking.gather import RULE_OF, Gathered, collect, drop
from mapjob.ranking.pairs import Pairs, RankedPairs
from mapjob.selection.decide import Excluded
from mapjob.selection.scored import ScoredUnits
from mapjob.selection.where import Where


@dataclass(frozen=True)
class Scored:
    """A scored piece of a corpus as ranking holds it. `refused`: positions of the rows that scoring refused, by reason.

    pairs: None until repeats are dropped. excluded: which of the names that the run file leaves out were met.
    """

    units: ScoredUnits
    pairs: RankedPairs | None
    refused: dict[Reason, I64]
    flags: dict[str, int]  # counts, as in ScoredUnit
    excluded: Excluded


def read_scored(units: ScoredUnits, selection: Selection, extra_columns: Sequence[str] = ()) -> tuple[Scored, Gathered]:
    """Read every unit once, and keep what ranking and the count of rows need. extra_columns: as in `collect`."""
    units = copy.copy(units)  # which then keeps what it asked all pieces; a program that runs again asks again
    refused: dict[Reason, list[I64]] = {}
    flags: dict[str, int] = {}
    excluded = Excluded.of(selection, units.decisions)
    where = None if selection.where is None else Where.check(selection, units.plan, units.families)
    leaves_out, several = bool(len(excluded.ids) or len(excluded.groups) or where), selection.pairs_per_record > 1

    def pairs_by_unit() -> Iterator[Pairs]:
        for unit in units.read_numbers():
            for name, number in unit.flags.items():
                flags[name] = flags.get(name, 0) + number
            reasons = unit.rows["reason"].combine_chunks().dictionary_encode()
            for number, reason in enumerate(reasons.dictionary.to_pylist()):
                rows = np.flatnonzero(pc.equal(reasons.indices, number).fill_null(False))
                refused.setdefault(Reason(reason), []).append(rows + unit.first_row)
            pairs = unit.pairs
            if leaves_out:
                pairs = excluded.judge(pairs, unit.rows["pair_id"].combine_chunks(), unit.first_row, several)
            if where is not None:
                pairs = leave_out(pairs, where, units.plan, unit.first_row, unit.rows.num_rows)
            if selection.on_disagreement == "relabel":  # of what is left out, none counts
                counted = unit.relabelled if pairs.decision is None else unit.relabelled & (pairs.decision <= 0)
                flags["relabelled"] = flags.get("relabelled", 0) + int(counted.sum())
            yield pairs

    gathered = collect(pairs_by_unit(), units.plan.num_rows, selection, units.rewards, extra_columns)
    refused = {reason: np.concatenate(parts) for reason, parts in refused.items()}
    return Scored(units, None, refused, flags, excluded), gathered


def leave_out(pairs: Pairs, where: Where, plan: Plan, first_row: int, num_rows: int) -> Pairs:
    """The pairs with the rule for those for which the condition is not true. first_row, num_rows: of whole units."""
    first, last = np.searchsorted(plan.first_rows, [first_row, first_row + num_rows])
    decision, left = pairs.decision.copy(), np.flatnonzero(pairs.decision <= 0)
    decision[left[where.judge(pairs.take(left), plan, range(first, last))]] = RULE_OF[Reason.EXCLUDED_WHERE]
    return replace(pairs, decision=decision)


def drop_repeats(read: tuple[Scored, Gathered], selection: Selection) -> Scored:
    """What `read_scored` read, as it is ranked."""
    scored, gathered = read
    return replace(scored, pairs=drop(gathered, selection))


def load_scored(units: ScoredUnits, selection: Selection, extra_columns: Sequence[str] = ()) -> Scored:
    """A corpus in one piece, as `read_scored` and `drop_repeats` have it."""
    units = units.settle() if units.decisions.verdicts is not None else units
    return drop_repeats(read_scored(units, selection, extra_columns), selection)

"""A scored corpus as ranking holds it: one pass over its units."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mapjob.arrays import I64
from mapjob.config import Selection
from mapjob.errors import Reason
from mapjob.ranking.gather import gathered
from mapjob.ranking.pairs import Pairs, RankedPairs
from mapjob.store.tables import to_ipc
from mapjob.store.units import ScoredUnits


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


def load_scored(units: ScoredUnits, selection: Selection, also: Sequence[str] = ()) -> Scored:
    """Read every unit once, and keep of it what ranking and the account of rows need. also: as in `gathered`."""
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

    pairs = gathered(pairs_by_unit(), units.plan.num_rows, selection, units.rewards, also)
    return Scored(
        units,
        pairs,
        {reason: np.concatenate(parts) for reason, parts in refused.items()},
        flags,
        digest.hexdigest()[:16],
    )

"""One global, exact order over all pairs, and the parts of it that are kept."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.arrays import F64, I64

PairIds = Callable[[I64], pa.Array | pa.ChunkedArray]  # ids of the pairs at ascending indices, fetched when asked for


def rank_order(scores: F64, pair_ids: PairIds, no_margin: npt.NDArray[np.bool_]) -> I64:
    """Indices of all pairs from best to worst: larger score first, ties by pair_id ascending, then by index.

    scores: (N,) finite; -0.0 and 0.0 are one value. no_margin: (N,), True where the reward margin is exactly 0; those
    rank after all others, since the reward model asks for nothing there. Raises ValueError for a score that is not
    finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a score that is not finite cannot be ranked")
    order = np.lexsort((scores, ~no_margin))[::-1]
    _settle_ties(order, scores[order], no_margin[order], pair_ids)
    return order


def _settle_ties(order: I64, scores: F64, no_margin: npt.NDArray[np.bool_], pair_ids: PairIds) -> None:
    """Only pairs with equal keys are asked for their pair_id: few as a rule, and ids are most of a corpus's numbers."""
    starts = np.ones(len(order), bool)  # where a run of equal keys begins
    starts[1:] = (scores[1:] != scores[:-1]) | (no_margin[1:] != no_margin[:-1])
    places = np.flatnonzero(~(starts & np.append(starts[1:], True)))
    if not len(places):
        return
    tied, run = order[places], np.cumsum(starts[places])
    by_index = np.argsort(tied)
    keys = pa.table({"run": run[by_index], "pair_id": pair_ids(tied[by_index])})
    settled = pc.sort_indices(keys, [("run", "ascending"), ("pair_id", "ascending")])  # stable
    order[places] = tied[by_index][settled.to_numpy()]


def num_kept_by_tokens(num_tokens_in_order: I64, budget: int) -> int:
    """Longest prefix of the ranking whose tokens together are at most `budget`."""
    return int(np.searchsorted(np.cumsum(num_tokens_in_order), budget, side="right"))


def num_kept_by_threshold(scores_in_order: F64, no_margin_in_order: npt.NDArray[np.bool_], threshold: float) -> int:
    """Pairs whose score is at least `threshold` and that have a reward margin at all."""
    return int(((scores_in_order >= threshold) & ~no_margin_in_order).sum())

"""One global, exact order over all pairs, and the parts of it that are kept."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob.metrics.statistics import F64

I64 = npt.NDArray[np.int64]


def rank_order(scores: F64, pair_ids: pa.ChunkedArray | pa.Array, no_margin: npt.NDArray[np.bool_]) -> I64:
    """Positions of all pairs from best to worst: larger score first, ties by pair_id ascending, then by position.

    scores: (N,) finite. no_margin: (N,), True where the reward margin is exactly 0; those rank after all others,
    since the reward model asks for nothing there. Raises ValueError for a score that is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a score that is not finite cannot be ranked")
    scores = scores + 0.0  # -0.0 and 0.0 are one value
    order = np.lexsort((-scores, no_margin))
    return _settle_ties(order, scores[order], no_margin[order], pair_ids)


def _settle_ties(order: I64, scores: F64, no_margin: npt.NDArray[np.bool_], pair_ids: pa.Array) -> I64:
    """Only runs of equal keys look at pair_id: sorting every id of a large corpus would cost more than the ranking."""
    tied = (scores[1:] == scores[:-1]) & (no_margin[1:] == no_margin[:-1])
    edges = np.flatnonzero(np.diff(np.concatenate(([False], tied, [False])).astype(np.int8)))
    for start, stop in zip(edges[::2], edges[1::2] + 1):
        run = np.sort(order[start:stop])
        ids = pair_ids.take(pa.array(run)).to_pylist()
        order[start:stop] = run[sorted(range(len(run)), key=ids.__getitem__)]
    return order


def num_kept_by_tokens(num_tokens_in_order: I64, budget: int) -> int:
    """Longest prefix of the ranking whose tokens together are at most `budget`."""
    return int(np.searchsorted(np.cumsum(num_tokens_in_order), budget, side="right"))


def num_kept_by_threshold(scores_in_order: F64, no_margin_in_order: npt.NDArray[np.bool_], threshold: float) -> int:
    """Pairs whose score is at least `threshold` and that have a reward margin at all."""
    return int(((scores_in_order >= threshold) & ~no_margin_in_order).sum())

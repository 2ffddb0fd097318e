"""One global, exact order over all pairs, and the parts of it that are kept."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.arrays import F64, I64
from mapjob.config import Selection
from mapjob.ranking.pairs import RankedPairs

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


# From one global order to what is kept: caps, near duplicates, quotas, and how much of the rest.


@dataclass(frozen=True)
class Cut:
    """places: in the order, ascending, of what is kept. passed_over: pairs ranked above the last kept one that are not
    kept, by the rule that took them out. warnings: quotas that could not be filled.
    """

    places: I64
    passed_over: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def cut(pairs: RankedPairs, selection: Selection, order: I64, score: F64, no_margin: npt.NDArray[np.bool_]) -> Cut:
    """Thin the order from the top by the rules of the selection, then keep what it says of the rest."""
    places, taken_out = np.arange(len(order)), {}
    if selection.per_prompt is not None:
        within = within_cap(_one_key(pairs.prompt_key)[order], selection.per_prompt)
        places, taken_out["per_prompt"] = places[within], places[~within]
    if selection.near_duplicates is not None:
        # Imported here, since only this rule needs datasketch and scipy.
        from mapjob.ranking.near_duplicates import unlike_better

        size = _size(selection, len(order)) if selection.quotas is None else None
        thinned = order[places]
        unlike = unlike_better(pairs.signature[thinned], pairs.position[thinned], selection.near_duplicates, size)
        places, taken_out["near_duplicates"] = places[unlike], places[~unlike]
    warnings: tuple[str, ...] = ()
    if selection.quotas is not None:
        kept, warnings = _by_quotas(pairs, selection, order, places)
        taken_out["quotas"] = np.setdiff1d(places, kept)
    else:
        kept = places[: _num_kept(pairs, selection, order, places, score, no_margin)]
    last = kept[-1] if len(kept) else -1
    passed_over = {rule: int((out < last).sum()) for rule, out in taken_out.items()}
    return Cut(kept, passed_over, warnings)


def _size(selection: Selection, num_ranked: int) -> int | None:
    """How many pairs are kept, where the run file says a number or a share of those ranked."""
    keep = selection.keep
    return int(keep.ratio * num_ranked) if keep.ratio is not None else keep.count


def _num_kept(
    pairs: RankedPairs, selection: Selection, order: I64, places: I64, score: F64, no_margin: npt.NDArray[np.bool_]
) -> int:
    keep, in_order = selection.keep, order[places]
    if (size := _size(selection, len(order))) is not None:
        return min(size, len(places))
    if keep.threshold is not None:
        return num_kept_by_threshold(score[in_order], no_margin[in_order], keep.threshold)
    return num_kept_by_tokens(_num_tokens(pairs)[in_order], keep.tokens)


def _by_quotas(pairs: RankedPairs, selection: Selection, order: I64, places: I64) -> tuple[I64, tuple[str, ...]]:
    """(places kept, ascending; warnings). Every group has its share of the size, the groups without one the rest."""
    quotas, groups = selection.quotas, pairs.groups
    whole = selection.keep.tokens if selection.keep.tokens is not None else _size(selection, len(order))
    names = [str(name) if name in quotas else None for name in groups]  # None: shares the rest
    shares = [*quotas.items(), (None, max(0.0, 1 - sum(quotas.values())))]
    kept, warnings = [], []
    for (name, share), size in zip(shares, split([share for _, share in shares], whole)):
        members = np.array([index for index, own in enumerate(names) if own == name], np.int32)
        own = places[np.isin(pairs.group[order[places]], members)]
        if selection.keep.tokens is not None:
            own = own[: num_kept_by_tokens(_num_tokens(pairs)[order[own]], size)]
        elif len(own) < size:
            who = f"the quota of {name}" if name is not None else "the groups without a quota"
            warnings.append(f"{who}: {share:.3g} of the selection is {size:,} pairs, and there are {len(own):,}")
        kept.append(own[:size])
    return np.sort(np.concatenate(kept)), tuple(warnings)


def split(shares: list[float], whole: int) -> list[int]:
    """`whole` in parts as near to the shares as whole numbers are, by largest remainder; earlier ones win ties."""
    exact = [share * whole for share in shares]
    parts = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (parts[i] - exact[i], i))
    for index in by_remainder[: max(0, round(sum(exact)) - sum(parts))]:
        parts[index] += 1
    return parts


def _num_tokens(pairs: RankedPairs) -> I64:
    return (pairs.columns["chosen_num_tokens"] + pairs.columns["rejected_num_tokens"]).astype(np.int64)


def within_cap(keys_in_order: npt.NDArray, cap: int) -> npt.NDArray[np.bool_]:
    """True for the first `cap` rows of every key, in rank order. keys_in_order: (N,) of any sortable dtype."""
    if len(keys_in_order) == 0:
        return np.zeros(0, bool)
    order = np.argsort(keys_in_order, kind="stable")
    keys = keys_in_order[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    occurrence = np.empty(len(keys), np.int64)
    occurrence[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))
    return occurrence < cap


def _one_key(keys: npt.NDArray[np.uint64]) -> I64:
    """(N, 2) keys as small integers that are equal where the keys are."""
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)

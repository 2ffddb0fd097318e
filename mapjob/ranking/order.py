"""One global, exact order over all pairs, and the parts of it that are kept."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mapjob import collective
from mapjob.arrays import F64, I64, Bools
from mapjob.config.selection import Selection
from mapjob.metrics.quantiles import order_keys
from mapjob.ranking.pairs import RankedPairs

PairIds = Callable[[I64], pa.Array | pa.ChunkedArray]  # ids of the pairs at ascending indices, fetched when asked for


def rank_order(scores: F64, pair_ids: PairIds, no_margin: Bools) -> I64:
    """Indices of all pairs from best to worst: larger score first, ties by pair_id ascending, then by index.

    scores: (N,) finite; -0.0 and 0.0 are one value. no_margin: (N,), True if the reward margin is exactly 0; those
    rank after all others, since the reward model asks for nothing there. Raises ValueError for a score that is not
    finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a score that is not finite cannot be ranked")
    keys = order_keys(scores)
    order = np.argsort(keys)  # equal keys come in any order, and are settled below
    if no_margin.any():
        last = no_margin[order]
        order = np.concatenate([order[~last], order[last]])
    keys, no_margin = keys[order], no_margin[order]
    starts = np.ones(len(order), bool)  # where a run of equal keys begins
    starts[1:] = (keys[1:] != keys[:-1]) | (no_margin[1:] != no_margin[:-1])
    tied_at = np.flatnonzero(~(starts & np.append(starts[1:], True)))
    if not len(tied_at):
        return order
    # The pair_id is fetched only of pairs with equal keys: these are few, and ids are most of a corpus's numbers.
    tied, run = order[tied_at], np.cumsum(starts[tied_at])
    by_index = np.argsort(tied)
    ids = pa.table({"run": run[by_index], "pair_id": pair_ids(tied[by_index])})
    settled = pc.sort_indices(ids, [("run", "ascending"), ("pair_id", "ascending")])  # stable
    order[tied_at] = tied[by_index][settled.to_numpy()]
    return order


def num_kept_by_tokens(num_tokens_in_order: I64, budget: int) -> int:
    """Longest prefix of the ranking whose tokens together are at most `budget`."""
    return int(np.searchsorted(np.cumsum(num_tokens_in_order), budget, side="right"))


def num_kept_by_threshold(scores_in_order: F64, no_margin_in_order: Bools, threshold: float) -> int:
    """Pairs whose score is at least `threshold` and that have a reward margin at all."""
    return int(((scores_in_order >= threshold) & ~no_margin_in_order).sum())


# From one global order to what is kept: caps, near duplicates, quotas, and how much of the rest.


@dataclass(frozen=True)
class Cut:
    """kept_at: ascending indices in the order. passed_over: pairs ranked above the last kept one that are not kept, by
    the rule that skips them, over all pieces. warnings: quotas that could not be filled.
    """

    kept_at: I64
    passed_over: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def cut(pairs: RankedPairs, selection: Selection, order: I64, score: F64, no_margin: Bools) -> Cut:
    """Thin the order from the top by the rules of the selection, then keep what it says of the rest.

    pairs, order, score, no_margin: of a piece of the global order, after those of the pieces before it.
    """
    num_ranked = collective.total(len(order))
    candidates, skipped = np.arange(len(order)), {}
    if selection.keep.between is not None:
        first, last = (int(share * num_ranked) - collective.before(len(order)) for share in selection.keep.between)
        candidates, skipped["between"] = candidates[max(0, first) : max(0, last)], candidates[: max(0, first)]
    if selection.per_prompt is not None:
        keys = pairs.prompt_key[order[candidates]]
        within = collective.judge_by_key(keys, partial(_within_cap_of_keys, selection.per_prompt))
        candidates, skipped["per_prompt"] = candidates[within], candidates[~within]
    if selection.near_duplicates is not None:
        # Imported here, since only this rule needs datasketch and scipy.
        from mapjob.ranking.near_duplicates import unlike_better

        assert collective.num_pieces() == 1, "which pairs are near duplicates depends on all that are better"
        whole = selection.quotas is None and selection.keep.tokens is None
        size = _size(selection, num_ranked) if whole else None
        thinned = order[candidates]
        unlike = unlike_better(pairs.signature[thinned], pairs.position[thinned], selection.near_duplicates, size)
        candidates, skipped["near_duplicates"] = candidates[unlike], candidates[~unlike]
    warnings: tuple[str, ...] = ()
    if selection.quotas is not None:
        kept_at, warnings = _by_quotas(pairs, selection, order, candidates, num_ranked)
        skipped["quotas"] = np.setdiff1d(candidates, kept_at)
    elif selection.keep.threshold is not None:
        in_order = order[candidates]
        kept_at = candidates[: num_kept_by_threshold(score[in_order], no_margin[in_order], selection.keep.threshold)]
    else:
        kept_at = _first(pairs, selection, order, candidates, _size(selection, num_ranked))
    return Cut(kept_at, _count_passed_over(kept_at, skipped, len(order)) if skipped else {}, warnings)


def _size(selection: Selection, num_ranked: int) -> int | None:
    """How many pairs, or tokens of pairs, are kept; None if a threshold or a range of the order decides."""
    keep = selection.keep
    if keep.tokens is not None:
        return keep.tokens
    return int(keep.ratio * num_ranked) if keep.ratio is not None else keep.count


def _first(pairs: RankedPairs, selection: Selection, order: I64, candidates: I64, size: int | None) -> I64:
    """The first so many of these indices in the order, over all pieces, or the first that have so many tokens; None:
    all.
    """
    if size is None:
        return candidates
    if selection.keep.tokens is None:
        return candidates[: max(0, size - collective.before(len(candidates)))]
    columns = pairs.columns
    tokens = (columns["chosen_num_tokens"] + columns["rejected_num_tokens"]).astype(np.int64)[order[candidates]]
    return candidates[: num_kept_by_tokens(tokens, size - collective.before(int(tokens.sum())))]


def _by_quotas(
    pairs: RankedPairs, selection: Selection, order: I64, candidates: I64, num_ranked: int
) -> tuple[I64, tuple[str, ...]]:
    """(kept_at, warnings). Every group with a quota has its share of the size, the other groups share the rest."""
    quotas, groups = selection.quotas, pairs.groups
    names = [str(name) if name in quotas else None for name in groups]  # None: shares the rest
    shares = [*quotas.items(), (None, max(0.0, 1 - sum(quotas.values())))]
    kept_at, warnings = [], []
    for (name, share), size in zip(shares, split([share for _, share in shares], _size(selection, num_ranked))):
        members = np.array([index for index, quota in enumerate(names) if quota == name], np.int32)
        of_group = candidates[np.isin(pairs.group[order[candidates]], members)]
        num = collective.total(len(of_group))
        if not share and name is not None and name not in groups:
            warnings.append(f"the quota of {name}: no ranked pair is of this group")
        if selection.keep.tokens is None and num < size:
            who = f"the quota of {name}" if name is not None else "the groups without a quota"
            warnings.append(f"{who}: {share:.3g} of the selection is {size:,} pairs, and there are {num:,}")
        kept_at.append(_first(pairs, selection, order, of_group, size))
    return np.sort(np.concatenate(kept_at)), tuple(warnings)


def _count_passed_over(kept_at: I64, skipped: dict[str, I64], num: int) -> dict[str, int]:
    """skipped: indices in this piece of the order, by rule; num: of its pairs."""
    first = collective.before(num)
    last = collective.fold(first + int(kept_at[-1]) if len(kept_at) else -1, max)
    return {rule: collective.total(int((first + indices < last).sum())) for rule, indices in skipped.items()}


def split(shares: list[float], whole: int) -> list[int]:
    """`whole` in parts as near to the shares as whole numbers are, by largest remainder; earlier ones win ties."""
    exact = [share * whole for share in shares]
    parts = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (parts[i] - exact[i], i))
    for index in by_remainder[: max(0, round(sum(exact)) - sum(parts))]:
        parts[index] += 1
    return parts


def _within_cap_of_keys(cap: int, keys: npt.NDArray[np.uint64]) -> Bools:
    """keys: (N, 2), in rank order."""
    return within_cap(np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1), cap)


def within_cap(keys_in_order: npt.NDArray, cap: int) -> Bools:
    """True for the first `cap` rows of every key, in rank order. keys_in_order: (N,) of any sortable dtype."""
    if len(keys_in_order) == 0:
        return np.zeros(0, bool)
    order = np.argsort(keys_in_order, kind="stable")
    keys = keys_in_order[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    occurrence = np.empty(len(keys), np.int64)
    occurrence[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))
    return occurrence < cap

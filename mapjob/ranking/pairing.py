"""Which two completions of a record form the pair that is ranked.

Values of completions lie flat: all completions of all records in a row, shape (C,); `offsets`, (N + 1,), says where
each record's completions start. Every completion is scored once, whatever the pairing.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64, I64
from mapjob.metrics.column import finite
from mapjob.metrics.dcrm import dcrm
from mapjob.metrics.map import Scale, map_score


class CandidatePairs(NamedTuple):
    """Pairs of many records, shape (P,), each record's together and its best pair first."""

    record: I64
    chosen: I64  # index inside the record, as `rejected`
    rejected: I64


def labelled(num_completions: I64) -> tuple[I64, I64]:
    """Preference data: completion 0 is chosen, completion 1 rejected. Returns two arrays of shape (N,)."""
    return np.zeros(len(num_completions), np.int64), np.ones(len(num_completions), np.int64)


def best_worst(rewards: F64, offsets: I64) -> tuple[I64, I64]:
    """Best against worst completion by reward, the first of equals (Huang et al. 2025, arXiv 2503.01864, self-play).

    Returns (chosen, rejected): index inside the record, each of shape (N,).
    """
    num = np.diff(offsets)
    owner = np.repeat(np.arange(len(num)), num)
    best = np.lexsort((np.arange(len(rewards)), -rewards, owner))[offsets[:-1]] - offsets[:-1]
    # Among all-equal rewards the last one is the worst, so that a pair never holds one completion twice.
    worst = np.lexsort((-np.arange(len(rewards)), rewards, owner))[offsets[:-1]] - offsets[:-1]
    return best, worst


def ranked(rewards: F64, offsets: I64, most: int) -> CandidatePairs:
    """The best completion by reward against each of the others, worst first: at most `most` pairs a record.

    Curry-DPO (Pattnaik et al. 2024, arXiv 2403.07230) trains on these from the widest gap to the narrowest. The first
    is that of `best_worst`. A completion as good as the best one is left out, unless all of the record are.
    """
    (rewards,) = finite(rewards=rewards)
    num = np.diff(offsets)
    owner = np.repeat(np.arange(len(num)), num)
    best = best_worst(rewards, offsets)[0] + offsets[:-1]
    worst_first = np.lexsort((-np.arange(len(rewards)), rewards, owner))
    place = np.arange(len(rewards)) - offsets[owner]
    chosen = best[owner]
    # The best completion itself comes last of its record or, among equals, has no margin.
    has_margin = rewards[chosen] > rewards[worst_first]
    kept = (place < most) & (has_margin | (place == 0))
    return _inside(offsets, owner[kept], chosen[kept], worst_first[kept])


def all_pairs(offsets: I64) -> tuple[I64, I64, I64]:
    """(record, first, second) of every two completions of each record; first and second are places in the flat values.

    In the order (0, 1), (0, 2), …, (1, 2), … inside a record, which is that of `dcrm.edit_distances`.
    """
    num = np.diff(offsets)
    owner = np.repeat(np.arange(len(num)), num)
    num_after = offsets[1:][owner] - 1 - np.arange(len(owner))
    first = np.repeat(np.arange(len(owner)), num_after)
    starts = np.cumsum(num_after) - num_after
    second = first + 1 + np.arange(len(first)) - np.repeat(starts, num_after)
    return owner[first], first, second


def best_by_dcrm(
    rewards: F64, logps: F64, edit_distances: npt.ArrayLike, offsets: I64, scale: float = 1.0, most: int = 1
) -> CandidatePairs:
    """Best-of-N^2 (Huang and Goyal 2025, arXiv 2506.14157): the pairs of largest DCRM among all ordered pairs.

    A pair's chosen side is the one of larger reward. rewards, logps: (C,), logps summed over tokens; edit_distances:
    one for each of `all_pairs`; scale as in `dcrm`. At most `most` pairs a record.
    """
    _, first, second = all_pairs(offsets)
    margin = rewards[first] - rewards[second]
    return _best(dcrm(np.abs(margin), edit_distances, logps[first], logps[second], scale), margin, offsets, most)


def best_by_map(
    rewards: F64, implicit_rewards: F64, offsets: I64, scale: Scale, alpha: float = 1.0, most: int = 1
) -> CandidatePairs:
    """The pairs of largest MAP among all pairs of a record; the side of larger reward is chosen.

    rewards, implicit_rewards: (C,). The implicit reward is s / n (SimPO kind) or s - s_ref (DPO kind). MAP's scale
    comes from a corpus of pairs, so it has to be settled first: take that of the `best_worst` pairs. At most `most`
    pairs a record.
    """
    rewards, implicit_rewards = finite(rewards=rewards, implicit_rewards=implicit_rewards)
    _, first, second = all_pairs(offsets)
    margin = rewards[first] - rewards[second]
    implicit_margin = implicit_rewards[first] - implicit_rewards[second]
    return _best(map_score(margin, implicit_margin, scale, alpha), margin, offsets, most)


def _best(score: F64, margin: F64, offsets: I64, most: int) -> CandidatePairs:
    """At most `most` of all pairs a record: larger score first, then the earlier of `all_pairs`.

    Pairs without a reward margin have no chosen side. Only a record where no pair has one keeps one of them, so that no
    record is lost; it ranks last.
    """
    record, first, second = all_pairs(offsets)
    order = np.lexsort((-score, margin == 0, record))
    num_pairs = np.bincount(record, minlength=len(offsets) - 1)
    place = np.arange(len(order)) - np.repeat(np.cumsum(num_pairs) - num_pairs, num_pairs)
    order = order[(place < most) & ((margin[order] != 0) | (place == 0))]
    first_is_better = margin[order] >= 0
    chosen = np.where(first_is_better, first[order], second[order])
    rejected = np.where(first_is_better, second[order], first[order])
    return _inside(offsets, record[order], chosen, rejected)


def _inside(offsets: I64, record: I64, chosen: I64, rejected: I64) -> CandidatePairs:
    return CandidatePairs(record, chosen - offsets[record], rejected - offsets[record])


def gather(values: npt.NDArray, offsets: I64, index: I64, record: I64 | None = None) -> F64:
    """values[offsets[record] + index] as float64, shape (P,); without `record`, there is one index for each record."""
    starts = offsets[:-1] if record is None else offsets[record]
    return values[starts + index].astype(np.float64)

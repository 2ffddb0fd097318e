"""Which two completions of a record form the pair that is ranked.

Values of completions lie flat: all completions of all records in a row, shape (C,); `offsets`, (N + 1,), says where
each record's completions start. Every completion is scored once, whatever the pairing.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64, I64
from mapjob.config import Selection
from mapjob.metrics.columns import finite
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


# The scored completions of a unit's records, and the pairs that are made of them. Values of completions lie flat:
# all completions of all records in a row, shape (C,); `offsets`, (N + 1,), says where each record's completions
# start.


@dataclass(frozen=True)
class Completions:
    """columns: reward, logps, num_tokens; where they were scored also ref_logps, unconditional_logps, collision_logps
    and reward.<name> of each of several reward models; shape (C,). edit_distance: of every two completions of a record,
    as `pairing.all_pairs` orders them, where a metric or the pairing goes by it.
    """

    offsets: I64
    columns: dict[str, npt.NDArray]
    edit_distance: npt.NDArray | None = None

    @property
    def num(self) -> I64:
        """Completions of each record, shape (N,)."""
        return np.diff(self.offsets)

    def labelled(self) -> CandidatePairs:
        """Preference data: one pair a record, its label that of the corpus."""
        return CandidatePairs(np.arange(len(self.num)), *labelled(self.num))

    def best_worst(self) -> CandidatePairs:
        return CandidatePairs(np.arange(len(self.num)), *best_worst(self.columns["reward"], self.offsets))

    def paired(self, selection: Selection, scale: Scale | None) -> CandidatePairs:
        """The pairs that selection.pairing makes of candidates. scale: that of pairing map, of the best_worst pairs."""
        c, most = self.columns, selection.pairs_per_record
        match selection.pairing:
            case "ranked":
                return ranked(c["reward"], self.offsets, most)
            case "dcrm":
                assert self.edit_distance is not None, "scored where the pairing asks for it"
                return best_by_dcrm(c["reward"], c["logps"], self.edit_distance, self.offsets, most=most)
            case "map":
                assert scale is not None, "settled over the corpus first"
                implicit = (
                    c["logps"] / c["num_tokens"] if selection.implicit == "simpo" else c["logps"] - c["ref_logps"]
                )
                return best_by_map(c["reward"], implicit, self.offsets, scale, selection.alpha, most)
        return self.best_worst()

    def columns_of(self, pairs: CandidatePairs) -> dict[str, F64]:
        """Both sides' columns of each pair, float64: chosen_logps, ref_chosen_logps, …; and its edit_distance."""
        columns = {}
        for name, values in self.columns.items():
            # TRL's names for the reference.
            prefix, name = ("ref_", name.removeprefix("ref_")) if name.startswith("ref_") else ("", name)
            columns[f"{prefix}chosen_{name}"] = gather(values, self.offsets, pairs.chosen, pairs.record)
            columns[f"{prefix}rejected_{name}"] = gather(values, self.offsets, pairs.rejected, pairs.record)
        if self.edit_distance is not None:
            columns["edit_distance"] = self.edit_distance[self._place(pairs)].astype(np.float64)
        return columns

    def _place(self, pairs: CandidatePairs) -> I64:
        """Where `all_pairs` has the two completions of each pair."""
        num = self.num
        starts = np.concatenate(([0], np.cumsum(num * (num - 1) // 2)))[pairs.record]
        low, high = np.minimum(pairs.chosen, pairs.rejected), np.maximum(pairs.chosen, pairs.rejected)
        return starts + low * (2 * num[pairs.record] - low - 1) // 2 + high - low - 1

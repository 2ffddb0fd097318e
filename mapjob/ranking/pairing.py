"""Which two completions of a record form the pair that is ranked, and the columns of that pair.

Values of completions are flat: all completions of all records in a row, shape (C,); `offsets`, (N + 1,), says where
each record's completions start. Every completion is scored once, whatever the pairing.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64, I64
from mapjob.config.selection import Selection
from mapjob.metrics.columns import check_finite
from mapjob.metrics.dcrm import dcrm
from mapjob.metrics.map import Scale, map_score


class CandidatePairs(NamedTuple):
    """Pairs of many records, shape (P,); those of a record are together, its best pair first."""

    record: I64
    chosen: I64  # index inside the record, as `rejected`
    rejected: I64


def _record_of(offsets: I64) -> I64:
    """The record of each completion, (C,)."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def best_worst(rewards: F64, offsets: I64) -> tuple[I64, I64]:
    """Best against worst completion by reward, the first of equals (Huang et al. 2025, arXiv 2503.01864, self-play).

    Returns (chosen, rejected): index inside the record, each of shape (N,).
    """
    record, index = _record_of(offsets), np.arange(len(rewards))
    best = np.lexsort((index, -rewards, record))[offsets[:-1]] - offsets[:-1]
    # Among all-equal rewards the last one is the worst, so that a pair never holds one completion twice.
    worst = np.lexsort((-index, rewards, record))[offsets[:-1]] - offsets[:-1]
    return best, worst


def best_sigma(rewards: F64, offsets: I64) -> CandidatePairs:
    """Best completion against the one nearest to mu - 2 sigma of its record's rewards, the first of equals.

    One pair per record. After Xiao et al. 2025, arXiv 2502.16825: the more responses there are, the further the worst
    is out. mu, sigma: of the record (population).
    """
    check_finite(rewards=rewards)
    record, num = _record_of(offsets), np.diff(offsets)
    mean = np.add.reduceat(rewards, offsets[:-1]) / num if len(num) else np.zeros(0)
    square = np.square(rewards - mean[record])
    sigma = np.sqrt(np.add.reduceat(square, offsets[:-1]) / num) if len(num) else np.zeros(0)
    away = np.abs(rewards - (mean - 2 * sigma)[record])
    chosen = best_worst(rewards, offsets)[0] + offsets[:-1]
    away[chosen] = np.inf
    rejected = np.lexsort((np.arange(len(rewards)), away, record))[offsets[:-1]]
    return _inside(offsets, np.arange(len(num)), chosen, rejected)


def best_against_others(rewards: F64, offsets: I64, max_pairs: int) -> CandidatePairs:
    """The best completion by reward against every other one, worst first: at most `max_pairs` per record.

    Curry-DPO (Pattnaik et al. 2024, arXiv 2403.07230) trains on these from the widest gap to the narrowest. The first
    is that of `best_worst`. A completion as good as the best one is left out, unless all of the record are.
    """
    check_finite(rewards=rewards)
    record, index = _record_of(offsets), np.arange(len(rewards))
    chosen = (best_worst(rewards, offsets)[0] + offsets[:-1])[record]
    worst_first = np.lexsort((-index, rewards, record))
    pair_in_row = index - offsets[record]
    # The best completion itself comes last of its record or, among equals, has no margin.
    has_margin = rewards[chosen] > rewards[worst_first]
    kept = (pair_in_row < max_pairs) & (has_margin | (pair_in_row == 0))
    return _inside(offsets, record[kept], chosen[kept], worst_first[kept])


def all_pairs(offsets: I64) -> tuple[I64, I64, I64]:
    """(record, first, second) of every two completions of each record; first and second index the flat values.

    In the order (0, 1), (0, 2), …, (1, 2), … inside a record, which is that of `dcrm.edit_distances`.
    """
    record = _record_of(offsets)
    num_after = offsets[1:][record] - 1 - np.arange(len(record))
    first = np.repeat(np.arange(len(record)), num_after)
    starts = np.cumsum(num_after) - num_after
    second = first + 1 + np.arange(len(first)) - np.repeat(starts, num_after)
    return record[first], first, second


def best_by_dcrm(
    rewards: F64, logps: F64, edit_distances: npt.ArrayLike, offsets: I64, scale: float = 1.0, max_pairs: int = 1
) -> CandidatePairs:
    """Best-of-N^2 (Huang and Goyal 2025, arXiv 2506.14157): the pairs of largest DCRM among all ordered pairs.

    A pair's chosen side is the one of larger reward. rewards, logps: (C,), logps summed over tokens; edit_distances:
    one for each of `all_pairs`; scale as in `dcrm`. At most `max_pairs` per record.
    """
    check_finite(rewards=rewards, logps=logps)
    _, first, second = all_pairs(offsets)
    margin = rewards[first] - rewards[second]
    return _best(dcrm(np.abs(margin), edit_distances, logps[first], logps[second], scale), margin, offsets, max_pairs)


def best_by_map(
    rewards: F64, implicit_rewards: F64, offsets: I64, scale: Scale, alpha: float = 1.0, max_pairs: int = 1
) -> CandidatePairs:
    """The pairs of largest MAP among all pairs of a record; the side of larger reward is chosen.

    rewards, implicit_rewards: (C,). The implicit reward is s / n (SimPO kind) or s - s_ref (DPO kind). MAP's scale
    comes from a corpus of pairs, so it has to be settled first: take that of the `best_worst` pairs. At most
    `max_pairs` per record.
    """
    check_finite(rewards=rewards, implicit_rewards=implicit_rewards)
    _, first, second = all_pairs(offsets)
    margin = rewards[first] - rewards[second]
    implicit_margin = implicit_rewards[first] - implicit_rewards[second]
    return _best(map_score(margin, implicit_margin, scale, alpha), margin, offsets, max_pairs)


def _best(score: F64, margin: F64, offsets: I64, max_pairs: int) -> CandidatePairs:
    """At most `max_pairs` of all pairs of a record: larger score first, then the earlier of `all_pairs`.

    Pairs without a reward margin have no chosen side. Only a record in which no pair has one keeps one of them, so that
    no record is lost; it ranks last.
    """
    record, first, second = all_pairs(offsets)
    order = np.lexsort((-score, margin == 0, record))
    num_pairs = np.bincount(record, minlength=len(offsets) - 1)
    pair_in_row = np.arange(len(order)) - np.repeat(np.cumsum(num_pairs) - num_pairs, num_pairs)
    order = order[(pair_in_row < max_pairs) & ((margin[order] != 0) | (pair_in_row == 0))]
    first_is_better = margin[order] >= 0
    chosen = np.where(first_is_better, first[order], second[order])
    rejected = np.where(first_is_better, second[order], first[order])
    return _inside(offsets, record[order], chosen, rejected)


def _inside(offsets: I64, record: I64, chosen: I64, rejected: I64) -> CandidatePairs:
    return CandidatePairs(record, chosen - offsets[record], rejected - offsets[record])


@dataclass(frozen=True)
class Completions:
    """The scored completions of a unit's records.

    columns: reward, logps, num_tokens; if they were scored also ref_logps, unconditional_logps, collision_logps and
    reward.<name> of each of several reward models; shape (C,). edit_distance: of every two completions of a record, as
    `all_pairs` orders them, if a metric or the pairing goes by it.
    """

    offsets: I64
    columns: dict[str, npt.NDArray]
    edit_distance: npt.NDArray | None = None

    def by_label(self) -> CandidatePairs:
        """Preference data: one pair per record, completion 0 chosen and completion 1 rejected."""
        record = np.arange(len(self.offsets) - 1)
        return CandidatePairs(record, np.zeros_like(record), np.ones_like(record))

    def by_pairing(self, selection: Selection, scale: Scale | None) -> CandidatePairs:
        """The pairs that selection.pairing makes of candidates. scale: that of pairing map, of the best_worst pairs."""
        c, max_pairs = self.columns, selection.pairs_per_record
        match selection.pairing:
            case "ranked":
                return best_against_others(c["reward"], self.offsets, max_pairs)
            case "best_sigma":
                return best_sigma(c["reward"], self.offsets)
            case "dcrm":
                assert self.edit_distance is not None, "scored if the pairing asks for it"
                return best_by_dcrm(c["reward"], c["logps"], self.edit_distance, self.offsets, max_pairs=max_pairs)
            case "map":
                assert scale is not None, "settled over the corpus first"
                is_simpo = selection.implicit == "simpo"
                implicit = c["logps"] / c["num_tokens"] if is_simpo else c["logps"] - c["ref_logps"]
                return best_by_map(c["reward"], implicit, self.offsets, scale, selection.alpha, max_pairs)
        return CandidatePairs(np.arange(len(self.offsets) - 1), *best_worst(c["reward"], self.offsets))

    def columns_of(self, pairs: CandidatePairs) -> dict[str, F64]:
        """Both sides' columns of each pair, float64: chosen_logps, ref_chosen_logps, …; and its edit_distance."""
        columns, first = {}, self.offsets[pairs.record]
        for name, values in self.columns.items():
            # TRL's names for the reference.
            prefix, name = ("ref_", name.removeprefix("ref_")) if name.startswith("ref_") else ("", name)
            columns[f"{prefix}chosen_{name}"] = values[first + pairs.chosen].astype(np.float64)
            columns[f"{prefix}rejected_{name}"] = values[first + pairs.rejected].astype(np.float64)
        if self.edit_distance is not None:
            columns["edit_distance"] = self.edit_distance[self._index_in_all_pairs(pairs)].astype(np.float64)
        return columns

    def _index_in_all_pairs(self, pairs: CandidatePairs) -> I64:
        num = np.diff(self.offsets)
        starts = np.concatenate(([0], np.cumsum(num * (num - 1) // 2)))[pairs.record]
        low, high = np.minimum(pairs.chosen, pairs.rejected), np.maximum(pairs.chosen, pairs.rejected)
        return starts + low * (2 * num[pairs.record] - low - 1) // 2 + high - low - 1

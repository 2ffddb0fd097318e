"""How much selections agree, and what a set of ranked pairs is like: labels, lengths, margins, groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64, I64
from mapjob.config import Keep, Selection
from mapjob.metrics.table import METRICS, metric
from mapjob.ranking.order import PairIds, cut, rank_order
from mapjob.ranking.rank import Ranking, inputs_of

PEERS = ("map", "explicit", "implicit_small", "random")  # every corpus has what they need


def agreement(ranking: Ranking, selection: Selection, pair_ids: PairIds) -> dict[str, float]:
    """Jaccard overlap of the selection with the selections of its size by the metrics of PEERS and of the run file.

    They go by the same caps and quotas; none of them skips near duplicates, which take long to find.
    pair_ids: by position in the corpus, for ties.
    """
    pairs, no_margin = ranking.pairs, ranking.reward_margin == 0
    plain = selection.model_copy(update={"keep": Keep(count=len(ranking.kept)), "near_duplicates": None})
    inputs = inputs_of(pairs, selection, ranking.scale)
    kept = pack(ranking.kept, len(pairs))
    overlaps = {}
    for name in dict.fromkeys([*PEERS, *ranking.further]):
        if name in METRICS and name != selection.metric:
            values = ranking.further[name] if name in ranking.further else metric(name, inputs).values
            order = rank_order(values, lambda index: pair_ids(pairs.position[index]), no_margin)
            picked = order[cut(pairs, plain, order, values, no_margin).kept_at]
            overlaps[name] = float(jaccard([kept, pack(picked, len(pairs))])[0, 1])
    return overlaps


def pack(picked: I64, num_pairs: int) -> npt.NDArray[np.uint8]:
    """A selection in one bit per pair. picked: indices."""
    chosen = np.zeros(num_pairs, bool)
    chosen[picked] = True
    return np.packbits(chosen)


def jaccard(kept: Sequence[npt.NDArray[np.uint8]]) -> F64:
    """kept: packed bits of each selection. Two empty selections are the same: 1."""
    size = len(kept)
    overlap = np.ones((size, size))
    for i in range(size):
        for j in range(i):
            union = int(np.bitwise_count(kept[i] | kept[j]).sum())
            overlap[i, j] = overlap[j, i] = int(np.bitwise_count(kept[i] & kept[j]).sum()) / union if union else 1.0
    return overlap


QUANTILES = (0.05, 0.5, 0.95)
PROFILE_COLUMNS = ("chosen_num_tokens", "rejected_num_tokens", "group")  # what a profile needs beside the margins


@dataclass(frozen=True)
class Profile:
    """What a set of pairs is like: shares in [0, 1], means of tokens, quantiles (5, 50, 95 %) of both margins."""

    num_pairs: int
    label_disagreement: float  # share that the reward model has the other way round
    chosen_num_tokens: float
    rejected_num_tokens: float
    reward_margin: tuple[float, ...]
    implicit_margin: tuple[float, ...]
    groups: dict[str, float]


def profile(ranking: Ranking, picked: I64) -> Profile:
    """Of the pairs at these indices of the ranking; of none, every number is 0."""
    pairs = ranking.pairs
    reward, implicit = ranking.reward_margin[picked], ranking.implicit_margin[picked]
    counts = np.bincount(pairs.group[picked], minlength=len(pairs.groups))
    shares = {str(name): float(n / max(1, len(picked))) for name, n in zip(pairs.groups, counts) if name is not None}
    return Profile(
        len(picked),
        _mean(reward < 0),
        _mean(pairs.columns["chosen_num_tokens"][picked]),
        _mean(pairs.columns["rejected_num_tokens"][picked]),
        _quantiles(reward),
        _quantiles(implicit),
        shares,
    )


def _mean(values: npt.NDArray) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0


def _quantiles(values: F64) -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else (0.0,) * len(QUANTILES)

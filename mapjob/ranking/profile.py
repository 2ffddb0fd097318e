"""What a set of ranked pairs is like: labels, lengths, margins, groups."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64, I64
from mapjob.ranking.select import Ranking

QUANTILES = (0.05, 0.5, 0.95)
ALSO = ("chosen_num_tokens", "rejected_num_tokens", "group")  # what a profile looks at beside the margins


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

"""Several reward models: their margins in one unit, and their votes on a label."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mapjob.arrays import F64, Bools
from mapjob.errors import ConfigError
from mapjob.metrics.statistics import Moments


def standardise(reward_margins: Mapping[str, F64], rewards: Mapping[str, Moments]) -> tuple[F64, tuple[str, ...]]:
    """(K reward models' margins of N pairs, each divided by the standard deviation of that model's rewards, (K, N);
    warnings). rewards: moments of each model's rewards over all completions of the same corpus.

    The margin of z-scored rewards: (r_w - mu) / sigma - (r_l - mu) / sigma = (r_w - r_l) / sigma, signed by the label.
    Raw rewards of different models are never averaged (Coste et al. 2023, arXiv 2310.02743, for mean and worst case).
    A model that gives every completion the same reward says nothing: it is left out, with a warning (a 0 would decide
    worst cases). Raises ConfigError if that leaves none. With rewards of single completions in place of margins,
    differences of their mean over models are margins of the ensemble.
    """
    usable = [name for name in reward_margins if rewards[name].std > 0]
    if not usable:
        raise ConfigError(
            "every reward model gives all completions the same reward, so there is nothing to rank by",
            f"models.reward: {', '.join(reward_margins) or 'none'}",
            "check that the reward models are trained",
        )
    silent = [name for name in reward_margins if name not in usable]
    warnings = tuple(f"every reward of {name} is {rewards[name].mean:g}: it is left out" for name in silent)
    return np.stack([reward_margins[name] / rewards[name].std for name in usable]), warnings


class Vote(NamedTuple):
    """contradicts: of K reward models' margins of N pairs, (K, N), signed by the label: which labels fall, (N,)."""

    about: str
    contradicts: Callable[[F64], Bools]


# In the authors' code a model with equal rewards votes against the label; here it does not vote.
VOTES: dict[str, Vote] = {
    "majority": Vote(
        "More reward models contradict the label than confirm it; equal rewards are no vote.\n"
        "VoteMaj of PrefCleanBench, Yeh and Li 2025, arXiv 2509.23564 (code).",
        lambda margins_KN: np.sign(margins_KN).sum(axis=0) < 0,
    ),
    "all": Vote(
        "Reward models contradict the label and none confirms it; equal rewards are no vote.\n"
        "VoteAll of PrefCleanBench, Yeh and Li 2025, arXiv 2509.23564 (code).",
        lambda margins_KN: (margins_KN.min(axis=0) < 0) & (margins_KN.max(axis=0) <= 0),
    ),
}

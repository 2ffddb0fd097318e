"""MAP, the alignment potential, its scales, and the variants it is compared with."""

from dataclasses import dataclass

import numpy as np

from mapjob.arrays import F64
from mapjob.errors import ConfigError
from mapjob.metrics.calibration import log_odds_slope
from mapjob.metrics.statistics import Moments


@dataclass(frozen=True)
class Scale:
    """What brings the two margins to one unit: S_r and S_i of the formula."""

    reward: float
    implicit: float
    warnings: tuple[str, ...] = ()

    @classmethod
    def raw(cls, beta: float) -> "Scale":
        """The paper's formula as written: S = 1, with beta inside the implicit margin."""
        return cls(1.0, beta)

    @classmethod
    def zscore(cls, reward: Moments, implicit: Moments) -> "Scale":
        """1 / sigma of each |margin| over the corpus, as the authors ran it (population sigma).

        `reward` and `implicit` are the moments of the absolute margins. A side with sigma = 0 says nothing about any
        pair: its term is 0, with a warning. Raises ConfigError when both sides are constant.
        """
        if reward.std == 0 and implicit.std == 0:
            raise ConfigError(
                "every pair has the same two margins, so there is nothing to rank by",
                f"selection.scale: zscore over {reward.count} pairs",
                "check that the models are trained and that the corpus holds different pairs",
            )
        sides = (("reward margin", reward), ("implicit margin", implicit))
        constant = tuple(f"every |{name}| is {m.mean:g}: its term of MAP is 0" for name, m in sides if m.std == 0)
        return cls(_inverse(reward.std), _inverse(implicit.std), constant)

    @classmethod
    def calibrated(cls, reward_margin: F64, implicit_margin: F64) -> "Scale":
        """Both margins in Bradley-Terry log-odds of the labels; then alpha = 1 compares like with like."""
        return cls(log_odds_slope(reward_margin, "reward margin"), log_odds_slope(implicit_margin, "implicit margin"))


def _inverse(std: float) -> float:
    return 1.0 / std if std > 0 else 0.0


def map_score(reward_margin: F64, implicit_margin: F64, scale: Scale, alpha: float = 1.0) -> F64:
    """Alignment potential (Huang et al. 2025, arXiv 2503.01864): how far the policy is from the reward model's margin.

    S_r * |reward_margin| - alpha * S_i * |implicit_margin|; larger means more left to learn.
    Shapes (N,), float64, finite. Units: those of `scale`. Blind to swapped labels: use map_signed for those.
    """
    return scale.reward * np.abs(reward_margin) - alpha * scale.implicit * np.abs(implicit_margin)


def map_signed(reward_margin: F64, implicit_margin: F64, scale: Scale, alpha: float = 1.0) -> F64:
    """S_r * reward_margin - alpha * S_i * |implicit_margin|: low where the reward model contradicts the label."""
    return scale.reward * reward_margin - alpha * scale.implicit * np.abs(implicit_margin)


def map_unregularised(reward_margin: F64, implicit_margin: F64, scale: Scale, alpha: float = 1.0) -> F64:
    """S_r * reward_margin - alpha * S_i * implicit_margin: the ablation without either absolute value."""
    return scale.reward * reward_margin - alpha * scale.implicit * implicit_margin

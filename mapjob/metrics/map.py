"""MAP, the alignment potential, its scales, and the variants it is compared with."""

import math
from dataclasses import dataclass

import numpy as np

from mapjob import collective
from mapjob.arrays import F64
from mapjob.errors import ConfigError
from mapjob.metrics.statistics import Moments, sigmoid, total_sum


def log_odds_slope(margin: F64, name: str, doubt: F64 | float = 0.0) -> float:
    """Bradley-Terry: slope S > 0 that maximises the mean of (1 - doubt) log sigma(S x) + doubt log sigma(-S x), x the
    margin: P(chosen wins) = sigma(S x).

    A logistic regression through the origin. doubt: the label's probability to be wrong, 0 for labels as they are,
    since margins are signed by them. Shapes (N,), finite. The log-likelihood is concave in S, so Newton's method inside
    a bracket finds its one maximum. Raises ConfigError if there is none: no pair contradicts the margin (S grows
    without bound), or S <= 0.
    """
    where = f"selection.scale: calibrated, {name}"
    low, high = collective.ends(margin)
    certain = not collective.is_any(np.atleast_1d(doubt) > 0)
    if high <= 0 or total_sum(margin * (1 - 2 * doubt)) <= 0:
        raise ConfigError(
            f"the labels contradict the {name} as often as they support it, so it has no log-odds",
            where,
            "check that chosen and rejected are not swapped, or use scale: zscore",
        )
    if certain and low >= 0:
        do = "calibration needs labels that were not made by the same model; use scale: zscore"
        raise ConfigError(f"no label contradicts the {name}, so the fit has no finite slope", where, do)
    unit = max(-low, high)
    x = margin / unit  # the fit is invariant to units; this keeps Newton away from overflow
    low, high, slope = 0.0, math.inf, 0.0  # the gradient falls in S: it is > 0 at low and <= 0 at high
    for _ in range(200):
        miss = sigmoid(-slope * x)
        gradient = total_sum(x * (miss - doubt))
        curvature = total_sum(np.square(x) * miss * (1 - miss))
        low, high = (slope, high) if gradient > 0 else (low, slope)
        newton = slope + gradient / curvature if curvature > 0 else math.inf
        if not low < newton < high:
            newton = (low + high) / 2 if high < math.inf else 2 * slope + 1
        if abs(newton - slope) <= 1e-14 * newton:
            break
        slope = newton
    return slope / unit


# Explicit and implicit margins of a pair, signed by its label: positive means the chosen side is ahead. Shapes (N,),
# float64. s = summed log-probability of a completion in nats, n = its number of tokens, r = its reward.


def reward_margin(chosen_reward: F64, rejected_reward: F64) -> F64:
    """h = r_w - r_l, in the reward model's own units."""
    return chosen_reward - rejected_reward


def simpo_margin(chosen_logps: F64, rejected_logps: F64, chosen_num_tokens: F64, rejected_num_tokens: F64) -> F64:
    """d = s_w / n_w - s_l / n_l, nats per token, without beta (SimPO, Meng et al. 2024, arXiv 2405.14734)."""
    return chosen_logps / chosen_num_tokens - rejected_logps / rejected_num_tokens


def dpo_margin(chosen_logps: F64, rejected_logps: F64, ref_chosen_logps: F64, ref_rejected_logps: F64) -> F64:
    """g = (s_w - s_w_ref) - (s_l - s_l_ref), nats, without beta (DPO, Rafailov et al. 2023, arXiv 2305.18290).

    Never divided by length.
    """
    return (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)


@dataclass(frozen=True)
class Scale:
    """What brings the two margins to one unit: S_r and S_i of the formula."""

    reward: float
    implicit: float
    warnings: tuple[str, ...] = ()

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
        return cls(*(1.0 / m.std if m.std > 0 else 0.0 for m in (reward, implicit)), constant)


def map_score(reward_margin: F64, implicit_margin: F64, scale: Scale, alpha: float = 1.0) -> F64:
    """Alignment potential (Huang et al. 2025, arXiv 2503.01864): how far the policy is from the reward model's margin.

    S_r * |reward_margin| - alpha * S_i * |implicit_margin|; larger means more left to learn.
    Shapes (N,), float64, finite. Units: those of `scale`. Blind to swapped labels: use map_signed for those.
    """
    return scale.reward * np.abs(reward_margin) - alpha * scale.implicit * np.abs(implicit_margin)


def map_signed(reward_margin: F64, implicit_margin: F64, scale: Scale, alpha: float = 1.0) -> F64:
    """S_r * reward_margin - alpha * S_i * |implicit_margin|: low if the reward model contradicts the label."""
    return scale.reward * reward_margin - alpha * scale.implicit * np.abs(implicit_margin)

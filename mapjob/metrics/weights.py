"""Weights and soft labels of pairs for training objectives, from columns alone.

All shapes (N,); ValueError for values that are not finite.
"""

import math

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64
from mapjob.metrics.column import finite, per_token
from mapjob.metrics.logistic import log_sigmoid, sigmoid


def madpo_weight(
    reward_margin: F64, c_max: float = 2.0, c_min: float | None = None, rate: float = 1.0, tau: float = 6.9068
) -> F64:
    """w = sigma(c * h) / sigma(h) where h > -tau, else 1 (MADPO, arXiv 2510.05342).

    c = c_min + (c_max - c_min) / (1 + (c_max - 1) / (1 - c_min) * exp(rate * (|h| - tau))): near c_max for pairs of
    small margin, 1 at |h| = tau, near c_min beyond it. c_min is 1 / c_max unless given. h is in log-odds; bring another
    reward model's margins there first (`log_odds_slope`). Raises ValueError unless c_max > 1 and 0 < c_min < 1.
    """
    c_min = 1 / c_max if c_min is None else c_min
    if not (c_max > 1 and 0 < c_min < 1):
        raise ValueError(f"c_max is {c_max} and c_min is {c_min}: MADPO needs c_max > 1 and 0 < c_min < 1")
    (h,) = finite(reward_margin=reward_margin)
    log_ratio = math.log((c_max - 1) / (1 - c_min))
    c = c_min + (c_max - c_min) * sigmoid(-(rate * (np.abs(h) - tau) + log_ratio))
    weighed = np.maximum(h, -tau)  # what is below gets 1 in any case
    return np.where(h > -tau, np.exp(log_sigmoid(c * weighed) - log_sigmoid(weighed)), 1.0)


def mmpo_target(reward_margin: F64, gamma: float = 1.0) -> tuple[F64, npt.NDArray[np.bool_]]:
    """(p, swapped): soft label p = sigma(gamma * h), in [1/2, 1] (MMPO, Kim et al. 2024, arXiv 2410.03145).

    Objective: -p * log sigma(beta * g) - (1 - p) * log sigma(-beta * g). Where p < 1/2 the pair is swapped and has
    1 - p. gamma brings h to log-odds; the authors took 2.2, 0.3 and 1.1 for three reward models, so tune it.
    """
    (h,) = finite(reward_margin=reward_margin)
    return sigmoid(gamma * np.abs(h)), h < 0


def wpo_weight(
    chosen_logps: F64,
    rejected_logps: F64,
    chosen_collision_logps: F64,
    rejected_collision_logps: F64,
    chosen_num_tokens: F64,
    rejected_num_tokens: F64,
) -> F64:
    """min(1, exp(a_w + a_l)), a the mean over tokens of log p - log sum_v p_v^2 (WPO, Zhou et al., arXiv 2406.11827).

    Near 1 where both completions are what the policy itself would say, small where they are not. The collision column
    is the sum over the completion's tokens of log sum_v p_v^2, the policy's log-probability to draw one token twice.
    Rounds to 0 where a_w + a_l is below -745 nats.
    """
    s_w, s_l, q_w, q_l, n_w, n_l = finite(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_collision_logps=chosen_collision_logps,
        rejected_collision_logps=rejected_collision_logps,
        chosen_num_tokens=chosen_num_tokens,
        rejected_num_tokens=rejected_num_tokens,
    )
    return np.exp(np.minimum(per_token(s_w - q_w, n_w) + per_token(s_l - q_l, n_l), 0.0))

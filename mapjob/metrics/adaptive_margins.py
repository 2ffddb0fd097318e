"""Margins that a training objective subtracts, one for each pair, from columns alone.

An objective here is -log sigma(beta * d - margin) or close to it; each function says which. d is the difference of mean
log-probabilities, g is DPO's log-ratio gap. In training the authors take mu and sigma over a batch; here they are those
of the corpus (population sigma). All shapes (N,); ValueError for values that are not finite.
"""

import math

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64
from mapjob.errors import ConfigError
from mapjob.metrics.columns import Column, finite, per_token
from mapjob.metrics.statistics import Moments, log_sigmoid, sigmoid

# Past e^20 the objective is a straight line, so the gradient no longer depends on it; float32 holds both ends.
LARGEST_EXPONENT = 20.0


def amapo_margin(simpo_margin: F64, moments: Moments, beta: float = 2.0) -> Column:
    """beta * exp(mu * (mu - d) / sigma) where d < mu, else 0 (AMaPO, Deng et al. 2025, arXiv 2511.09385).

    Objective: -log sigma(beta * d - margin), margin detached. moments: those of d. beta is in front, as in the authors'
    code. With mu < 0 the exponent changes its sign, and harder pairs get smaller margins: a warning says so. Exponents
    are held within [-20, 20], and counted. With sigma = 0 no pair is below the mean, and every margin is 0.
    """
    (d,) = finite(simpo_margin=simpo_margin)
    mu, sigma = moments.mean, moments.std
    if sigma == 0:
        return Column(np.zeros(len(d)), (f"AMaPO: every implicit margin is {mu:g}, so every margin is 0",))
    exponent = (mu - d) / sigma * mu
    below = d < mu
    warnings = []
    if mu < 0:
        warnings.append(f"AMaPO: the mean implicit margin is {mu:.3g}, below 0, so harder pairs get smaller margins")
    num_clipped = int((below & (np.abs(exponent) > LARGEST_EXPONENT)).sum())
    if num_clipped:
        warnings.append(f"AMaPO: {num_clipped:,} of {len(d):,} exponents were beyond 20 and count as 20")
    exponential = np.exp(np.clip(exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT))
    return Column(np.where(below, beta * exponential, 0.0), tuple(warnings))


def alpha_dpo_margin(dpo_margin: F64, moments: Moments, gamma_beta_ratio: float, alpha: float = 0.1) -> Column:
    """gamma/beta + alpha * (g - mu) / sigma (alpha-DPO, Wu et al. 2024, arXiv 2410.10148).

    Objective: -log sigma(beta * (d - margin)): the margin is in units of d. moments: those of g; alpha 0.05 to 0.2.
    With sigma = 0 every margin is gamma/beta.
    """
    (g,) = finite(dpo_margin=dpo_margin)
    if moments.std == 0:
        told = f"alpha-DPO: every DPO margin is {moments.mean:g}, so every margin is gamma/beta"
        return Column(np.full(len(g), gamma_beta_ratio), (told,))
    return Column(gamma_beta_ratio + alpha * ((g - moments.mean) / moments.std))


def bpo_margin(
    chosen_logps: F64,
    rejected_logps: F64,
    ref_chosen_logps: F64,
    ref_rejected_logps: F64,
    beta: float = 0.1,
    alpha: float = 0.3,
) -> tuple[F64, npt.NDArray[np.bool_]]:
    """(rho, chosen_binds): rho = min(beta * (s_w - s_w_ref), -alpha * beta * (s_l - s_l_ref)) (BPO, arXiv 2506.03557).

    The side that improved less; chosen_binds is True where that is the chosen one, also where both are equal. alpha
    weighs the rejected side. Raises ConfigError where the policy equals its reference, which makes every rho 0.
    """
    s_w, s_l, ref_w, ref_l = finite(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    if len(s_w) and (s_w == ref_w).all() and (s_l == ref_l).all():
        raise ConfigError(
            "every BPO margin is 0: the policy gives the same log-probabilities as the reference",
            "models.reference",
            "use the reference that the policy was trained from",
        )
    chosen, rejected = beta * (s_w - ref_w), -alpha * beta * (s_l - ref_l)
    return np.minimum(chosen, rejected), chosen <= rejected


def repo_loss(simpo_margin: F64, gamma: float = 0.5) -> tuple[F64, npt.NDArray[np.bool_]]:
    """(max(0, gamma - d), active), active where d < gamma (RePO, Wu et al. 2025, arXiv 2503.07426; gamma 0.4 to 0.6).

    Pairs that are not active have no gradient: the share that is active says how much of the corpus would be used.
    """
    (d,) = finite(simpo_margin=simpo_margin)
    return np.maximum(0.0, gamma - d), d < gamma


# Weights and soft labels of pairs for training objectives, from columns alone. All shapes (N,); ValueError for
# values that are not finite.


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

"""gamma-PO: target margins that are large for clear pairs and small for doubtful ones, and gamma0 on average.

Sun et al. 2025, arXiv 2506.03690. The authors find the margins of a batch by 20 steps of exponentiated gradient; over a
corpus the same equation has one unknown, which is solved here to the last digits.
"""

import math

import numpy as np

from mapjob.metrics.column import Column, finite
from mapjob.metrics.logistic import sigmoid
from mapjob.metrics.statistics import F64

PRECISION = 1e-12


def gamma_po_margin(gap: F64, gamma0: float, tau: float) -> Column:
    """gamma_i = gamma0 * v_i / mean(v), v_i = exp(-(gamma0 / tau) * sigma(gamma_i - gap_i)); shapes (N,).

    gap: beta * d (SimPO kind) or beta * g (DPO kind). Objective: -log sigma(gap - gamma) for SimPO, and
    -log sigma(gap - (gamma - gamma0)) for DPO. (beta, gamma0 / beta, tau) of the paper: 10, 0.4, 10 for Llama-3;
    10, 0.5, 20 for Gemma-2; 2.5, 0.15, 10 for Mistral; 10, 0.3, 3 for Qwen2.5. The mean is gamma0, and the values do
    not depend on the order of the corpus. A solution that did not converge says so in the warnings. Raises ValueError
    unless gamma0 and tau are above 0 and gamma0 / tau is at most 100, and for values that are not finite.
    """
    (gap,) = finite(gap=gap)
    if not (gamma0 > 0 and tau > 0 and gamma0 / tau <= 100):
        raise ValueError(f"gamma0 is {gamma0} and tau is {tau}: both are above 0, and gamma0 / tau is at most 100")
    if not len(gap):
        return Column(gap)
    order = np.argsort(gap, kind="stable")  # a mean over sorted values is the same for every order of the corpus
    margins, converged = _margins_of_mean(gap[order], gamma0, gamma0 / tau)
    values = np.empty(len(gap))
    values[order] = margins
    told = f"gamma-PO: the fixed point did not converge; the mean margin is {values.mean():.6g}, not {gamma0:g}"
    return Column(values, () if converged else (told,))


def _margins_of_mean(gap: F64, mean: float, strength: float) -> tuple[F64, bool]:
    """Margins exp(level - strength * sigma(margin - gap)) at the one level where they have this mean.

    They grow with the level, from at most the mean at log(mean) to at least it at log(mean) + strength: Newton's method
    on the level, inside that bracket.
    """
    low, high = math.log(mean), math.log(mean) + strength
    level = (low + high) / 2
    log_margin = np.full(len(gap), math.log(mean))
    for _ in range(100):
        log_margin, slope = _log_margins(gap, level, strength, log_margin)
        margin = np.exp(log_margin)
        excess = float(margin.mean()) - mean
        if abs(excess) <= PRECISION * mean:
            return margin, True
        low, high = (level, high) if excess < 0 else (low, level)
        newton = level - excess / float((margin / slope).mean())
        level = newton if low < newton < high else (low + high) / 2
    return margin, False


def _log_margins(gap: F64, level: float, strength: float, guess: F64) -> tuple[F64, F64]:
    """(x, slope): the root of x + strength * sigma(exp(x) - gap) = level for every gap, and the slope of the left side.

    The left side grows in x with a slope of at least 1, and the root lies in [level - strength, level].
    """
    low, high = np.full(len(gap), level - strength), np.full(len(gap), level)
    x = np.clip(guess, low, high)
    for _ in range(100):
        margin = np.exp(x)
        share = sigmoid(margin - gap)
        excess = x + strength * share - level
        slope = 1.0 + strength * share * (1.0 - share) * margin
        low, high = np.where(excess < 0, x, low), np.where(excess > 0, x, high)
        newton = x - excess / slope
        newton = np.where((low <= newton) & (newton <= high), newton, (low + high) / 2)
        moved = np.abs(newton - x)
        x = newton
        if (moved <= 1e-15 * np.maximum(1.0, np.abs(x))).all():
            break
    return x, slope

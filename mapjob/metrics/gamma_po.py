"""gamma-PO's target margins over a whole corpus.

The authors find the margins of a batch by 20 steps of exponentiated gradient; over a corpus the same equation has one
unknown, which is solved here to the last digits.
"""

import math
from collections.abc import Callable

import numpy as np

from mapjob import collective
from mapjob.arrays import F64
from mapjob.metrics.columns import Column, Positive
from mapjob.metrics.elementary import exp
from mapjob.metrics.statistics import exact_mean, sigmoid

# Largest relative error of the mean margin that passes without a warning.
PRECISION = 1e-9


def gamma_po_margin(
    implicit_margin: F64, *, beta: Positive = 10.0, gamma_beta_ratio: Positive = 0.4, tau: Positive = 10.0
) -> Column:
    """A target margin per pair, gamma0 on average: larger for clear pairs, smaller for doubtful ones.
    -log sigma(beta d - margin). gamma-PO, Sun et al. 2025, arXiv 2506.03690.

    gamma_i = gamma0 * v_i / mean(v), v_i = exp(-(gamma0 / tau) * sigma(gamma_i - gap_i)); shapes (N,). gap = beta * d
    (SimPO kind) or beta * g (DPO kind), gamma0 = beta * gamma_beta_ratio. Objective: -log sigma(gap - gamma) for SimPO,
    and -log sigma(gap - (gamma - gamma0)) for DPO. (beta, ratio, tau) of the paper: 10, 0.4, 10 for Llama-3; 10, 0.5,
    20 for Gemma-2; 2.5, 0.15, 10 for Mistral; 10, 0.3, 3 for Qwen2.5. The mean is gamma0, and the values do not depend
    on the order of the corpus. A solution that did not converge says so in the warnings. Raises ValueError unless
    gamma0 and tau are above 0 and gamma0 / tau is at most 100.
    """
    gap, gamma0 = beta * implicit_margin, beta * gamma_beta_ratio
    if not (gamma0 > 0 and tau > 0 and gamma0 / tau <= 100):
        raise ValueError(f"gamma0 is {gamma0} and tau is {tau}: both are above 0, and gamma0 / tau is at most 100")
    if not collective.total(len(gap)):
        return Column(gap)
    values = _margins_of_mean(gap, gamma0, gamma0 / tau)
    mean = exact_mean(values)
    if abs(mean - gamma0) <= PRECISION * gamma0:
        return Column(values)
    return Column(
        values, (f"gamma-PO: the fixed point did not converge; the mean margin is {mean:.6g}, not {gamma0:g}",)
    )


def _margins_of_mean(gap: F64, mean: float, strength: float) -> F64:
    """Margins exp(level - strength * sigma(margin - gap)), at the one level where they have this mean.

    They grow with the level, from at most the mean at log(mean) to at least it at log(mean) + strength.
    """
    log_margin = np.full(len(gap), math.log(mean))

    def excess(level: F64) -> tuple[F64, F64]:
        nonlocal log_margin  # a good start for the next level
        log_margin = _log_margins(gap, float(level[0]), strength, log_margin)
        margin = exp(log_margin)
        return np.array([exact_mean(margin) - mean]), np.array([exact_mean(margin / _slope(gap, log_margin, strength))])

    low = np.array([math.log(mean)])
    level = _root(excess, low, low + strength, low + strength / 2)
    return exp(_log_margins(gap, float(level[0]), strength, log_margin))


def _log_margins(gap: F64, level: float, strength: float, start: F64) -> F64:
    """The x with x + strength * sigma(exp(x) - gap) = level, one for each gap: between level - strength and level."""

    def excess(x: F64) -> tuple[F64, F64]:
        return x + strength * sigmoid(exp(x) - gap) - level, _slope(gap, x, strength)

    low, high = np.full(len(gap), level - strength), np.full(len(gap), level)
    return _root(excess, low, high, np.clip(start, low, high))


def _slope(gap: F64, x: F64, strength: float) -> F64:
    """Derivative of x + strength * sigma(exp(x) - gap); at least 1."""
    away = exp(x) - gap
    return 1.0 + strength * sigmoid(away) * sigmoid(-away) * exp(x)


def _root(function: Callable[[F64], tuple[F64, F64]], low: F64, high: F64, x: F64) -> F64:
    """Roots of increasing functions, elementwise, inside brackets; `function` gives value and slope.

    Newton's method, and the middle of the bracket wherever its step leaves the bracket or is not half of the last one:
    so either steps or brackets shrink to nothing.
    """
    step, done = high - low, np.zeros(len(x), bool)
    for _ in range(300):
        value, slope = function(x)
        low, high = np.where(value < 0, x, low), np.where(value > 0, x, high)
        newton = x - value / slope
        converged = np.abs(newton - x) <= 1e-14 * np.maximum(1.0, np.abs(x))
        good = converged | ((low <= newton) & (newton <= high) & (np.abs(newton - x) <= step / 2))
        # A root that is found stays, whatever the others still need: none depends on how the corpus is cut.
        following = np.where(done, x, np.where(good, newton, (low + high) / 2))
        step, x, done = np.abs(following - x), following, done | converged
        if done.all():
            break
    return x

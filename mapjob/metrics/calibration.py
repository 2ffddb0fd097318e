"""Bradley-Terry calibration: the one slope that turns a margin into log-odds of the label."""

import numpy as np

from mapjob.errors import ConfigError
from mapjob.metrics.statistics import F64


def log_odds_slope(margin: F64, name: str) -> float:
    """Slope S > 0 that maximises sum log sigma(S * margin): P(chosen beats rejected) = sigma(S * margin).

    A logistic regression through the origin with every label 1, since margins are signed by the label; margin has
    shape (N,), finite. The log-likelihood is concave in S, so Newton's method from 0 with halving finds its maximum.
    Raises ConfigError where there is none: no pair contradicts the margin (S grows without bound), or S <= 0.
    """
    where = f"selection.scale: calibrated, {name}"
    if not (margin > 0).any() or margin.sum() <= 0:
        raise ConfigError(
            f"the labels contradict the {name} as often as they support it, so it has no log-odds",
            where,
            "check that chosen and rejected are not swapped, or use scale: zscore",
        )
    if not (margin < 0).any():
        raise ConfigError(
            f"no label contradicts the {name}, so the fit has no finite slope",
            where,
            "calibration needs labels that were not made by the same model; use scale: zscore",
        )
    unit = float(np.abs(margin).max())
    x = margin / unit  # the fit is invariant to units; this keeps Newton away from overflow
    slope = 0.0
    for _ in range(200):
        miss = _sigmoid(-slope * x)
        gradient, curvature = float(x @ miss), float((x * x) @ (miss * (1 - miss)))
        step = gradient / curvature if curvature > 0 else gradient
        while _log_likelihood(slope + step, x) < _log_likelihood(slope, x) and abs(step) > 1e-15 * max(1.0, slope):
            step /= 2
        slope += step
        if abs(step) <= 1e-13 * max(1.0, abs(slope)):
            break
    return slope / unit


def _sigmoid(x: F64) -> F64:
    return np.exp(-np.logaddexp(0.0, -x))


def _log_likelihood(slope: float, x: F64) -> float:
    return -float(np.logaddexp(0.0, -slope * x).sum())

"""Bradley-Terry calibration: the one slope that turns a margin into log-odds of the label."""

import math

import numpy as np

from mapjob.arrays import F64
from mapjob.errors import ConfigError


def log_odds_slope(margin: F64, name: str) -> float:
    """Slope S > 0 that maximises sum log sigma(S * margin): P(chosen beats rejected) = sigma(S * margin).

    A logistic regression through the origin with every label 1, since margins are signed by the label; margin has
    shape (N,), finite. The log-likelihood is concave in S, so Newton's method inside a bracket finds its one maximum.
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
    low, high, slope = 0.0, math.inf, 0.0  # the gradient falls in S: it is > 0 at low and <= 0 at high
    for _ in range(200):
        miss = np.exp(-np.logaddexp(0.0, slope * x))  # sigma(-S x)
        gradient, curvature = float(x @ miss), float((x * x) @ (miss * (1 - miss)))
        low, high = (slope, high) if gradient > 0 else (low, slope)
        newton = slope + gradient / curvature if curvature > 0 else math.inf
        if not low < newton < high:
            newton = (low + high) / 2 if high < math.inf else 2 * slope + 1
        if abs(newton - slope) <= 1e-14 * newton:
            break
        slope = newton
    return slope / unit

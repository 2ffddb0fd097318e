"""The logistic function without overflow."""

import numpy as np

from mapjob.arrays import F64


def sigmoid(x: F64) -> F64:
    """1 / (1 + exp(-x)), exactly 0.5 at 0; it rounds to 0 only below -745."""
    tail = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, tail) / (1.0 + tail)


def log_sigmoid(x: F64) -> F64:
    """log sigmoid(x), <= 0; -log1p(exp(-x)) where that does not overflow, and x where it would."""
    return np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x)))

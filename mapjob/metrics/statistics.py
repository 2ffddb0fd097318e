"""Corpus statistics: mean and spread of a column, the same to the last bit for every order and cut of the corpus."""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np

from mapjob.arrays import F64

AT_ONCE = 1 << 16  # Python floats in memory at a time


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations (M2) of float64 values.

    Sums are exact and rounded once (Shewchuk 1997, as math.fsum has it), so no order of the values changes them.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: F64) -> Self:
        """Moments of finite values of shape (N,)."""
        if values.size == 0:
            return cls()
        assert np.isfinite(values).all(), "statistics are over valid rows only"
        # A constant array must have m2 = 0 exactly; its computed mean may be off by an ulp.
        if (values == values[0]).all():
            return cls(values.size, float(values[0]), 0.0)
        mean = _sum(values) / values.size
        return cls(values.size, mean, _sum(np.square(values - mean)))

    @property
    def std(self) -> float:
        """Population standard deviation (ddof 0); 0.0 for an empty corpus."""
        return float(np.sqrt(self.m2 / self.count)) if self.count else 0.0


def _sum(values: F64) -> float:
    parts = (values[start : start + AT_ONCE].tolist() for start in range(0, len(values), AT_ONCE))
    return math.fsum(chain.from_iterable(parts))


# The logistic function without overflow.


def sigmoid(x: F64) -> F64:
    """1 / (1 + exp(-x)), exactly 0.5 at 0; it rounds to 0 only below -745."""
    tail = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, tail) / (1.0 + tail)


def log_sigmoid(x: F64) -> F64:
    """log sigmoid(x), <= 0; -log1p(exp(-x)) if that does not overflow, else x."""
    return np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x)))

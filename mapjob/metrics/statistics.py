"""Corpus statistics as mergeable moments, so that the order and grouping of units do not matter."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations (M2) of float64 values.

    `a.merge(b)` is the pairwise update of Chan, Golub and LeVeque (1983); it equals one pass over both up to rounding.
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
        mean = float(values.mean(dtype=np.float64))
        return cls(values.size, mean, float(np.square(values - mean).sum(dtype=np.float64)))

    def merge(self, other: "Moments") -> "Moments":
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * other.count / count,
            self.m2 + other.m2 + delta * delta * self.count * other.count / count,
        )

    @classmethod
    def merged(cls, parts: Iterable["Moments"]) -> "Moments":
        return reduce(Moments.merge, parts, Moments())

    @property
    def std(self) -> float:
        """Population standard deviation (ddof 0); 0.0 for an empty corpus."""
        return float(np.sqrt(self.m2 / self.count)) if self.count else 0.0

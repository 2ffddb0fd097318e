"""Corpus statistics: mean and spread of a column, the same to the last bit for every order and cut of the corpus."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from mapjob import collective
from mapjob.arrays import F64
from mapjob.metrics.elementary import exp, log1p

AT_ONCE = 1 << 18  # values in the processor's cache; sums of so many halves of 27 bits are exact in a float64
ONE = 1127  # exact sums are in units of 2^-1127: 2^-1074 is the least float64, and a significand has 53 bits


def exact_sum(values: F64) -> int:
    """The sum of finite values, exactly, in units of 2^-1127: sums of parts add up to that of the whole.

    Significands are added up as whole numbers, by exponent, and exponents last (after the accumulators of Malcolm 1971
    and Neal 2015).
    """
    total = 0
    for part in _parts(values):
        significand, exponent = np.frexp(part)
        scaled = significand * 2.0**27
        high = np.trunc(scaled)
        low = (scaled - high) * 2.0**26
        shift = exponent + 1074
        sums = [np.bincount(shift, half) for half in (high, low)]
        for index in np.flatnonzero((sums[0] != 0) | (sums[1] != 0)).tolist():
            total += ((int(sums[0][index]) << 26) + int(sums[1][index])) << index
    return total


def round_sum(total: int) -> float:
    """The float64 nearest to an exact sum, as math.fsum gives it for the values."""
    return total / (1 << ONE)


def total_sum(values: F64) -> float:
    """The float64 nearest to the exact sum of the finite values of all pieces."""
    return round_sum(collective.total(exact_sum(values)))


def exact_mean(values: F64) -> float:
    """Of the finite values of all pieces, at least one; the same for every order of them."""
    count, _, _, total = collective.fold((values.size, 0, 0, exact_sum(values)), _first_moments)
    return round_sum(total) / count


def _first_moments(parts: list[tuple[int, float, float, int]]) -> tuple[int, float, float, int]:
    """(how many values, lowest, highest, exact sum) of all pieces."""
    counts, lows, highs, totals = zip(*parts)
    return sum(counts), min(lows), max(highs), sum(totals)


def _parts(values: F64) -> Iterator[F64]:
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations (M2) of float64 values.

    Sums are exact and rounded once, so no order of the values changes them.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: F64) -> Self:
        """Moments of finite values of shape (N,), over all pieces."""
        assert np.isfinite(values).all(), "statistics are over valid rows only"
        lowest, highest = (values.min(), values.max()) if values.size else (np.inf, -np.inf)
        count, low, high, total = collective.fold((values.size, lowest, highest, exact_sum(values)), _first_moments)
        if not count:
            return cls()
        # A constant array must have m2 = 0 exactly; its computed mean may be off by an ulp.
        if low == high:
            return cls(count, float(low), 0.0)
        mean = round_sum(total) / count
        squares = sum(exact_sum(np.square(part - mean)) for part in _parts(values))
        return cls(count, mean, round_sum(collective.total(squares)))

    @property
    def std(self) -> float:
        """Population standard deviation (ddof 0); 0.0 for an empty corpus."""
        return float(np.sqrt(self.m2 / self.count)) if self.count else 0.0


# The logistic function without overflow.


def sigmoid(x: F64) -> F64:
    """1 / (1 + exp(-x)), exactly 0.5 at 0; it rounds to 0 only below -745."""
    tail = exp(-np.abs(x))
    return np.where(x >= 0, 1.0, tail) / (1.0 + tail)


def log_sigmoid(x: F64) -> F64:
    """log sigmoid(x), <= 0; -log1p(exp(-x)) if that does not overflow, else x."""
    return np.minimum(x, 0.0) - log1p(exp(-np.abs(x)))

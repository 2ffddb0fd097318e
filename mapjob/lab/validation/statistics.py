"""Plain statistics of a comparison: AUROC, bootstrap over prompts and trainings, win rate freed of length."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

from mapjob.arrays import F64, I64
from mapjob.metrics.statistics import sigmoid

COVERAGE = 0.95
# A weak prior that pulls both coefficients to 0: wins alone would have no finite fit.
RIDGE = 0.01


def auroc(score: F64, positive: npt.NDArray[np.bool_]) -> float:
    """Chance that a positive has a larger score than a negative, ties as one half (Mann-Whitney). Shapes (N,).

    NaN without positives or without negatives.
    """
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1, the mean of those that are equal
    return float((rank[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def prompt_weights(num_prompts: int, num_draws: int, seed: int) -> F64:
    """How often each draw of a bootstrap takes each prompt, (B, P); the first draw takes every prompt once."""
    drawn = np.random.default_rng(seed).multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), num_draws)
    return np.vstack([np.ones(num_prompts), drawn])


def ratio(total: F64, count: F64, weights: F64) -> F64:
    """Mean of the prompts' values, per draw, (B,). total, count: sum and number of values per prompt, (P,)."""
    with np.errstate(invalid="ignore"):
        return (weights @ total) / (weights @ count)


def length_controlled(win: F64, longer: F64, weights: F64) -> F64:
    """Win rate that answers of the same length would have: sigma(a) of P(win) = sigma(a + b * tanh(longer / std)).

    win: 1, 0, or 0.5 for a tie, (P,); longer: length of the answer less that of the one it is compared with, (P,);
    weights (B, P). Returns (B,). The length term is that of AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475); there
    is no instruction term, since both answer every prompt. Newton's method; see RIDGE.
    """
    spread = longer.std()
    x = np.tanh(longer / spread) if spread > 0 else np.zeros(len(longer))
    a, b = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(50):
        p = sigmoid(a[:, None] + b[:, None] * x)
        miss, curve = weights * (win - p), weights * p * (1 - p)
        gradient_a, gradient_b = miss.sum(1) - RIDGE * a, miss @ x - RIDGE * b
        aa, ab, bb = curve.sum(1) + RIDGE, curve @ x, curve @ (x * x) + RIDGE
        determinant = aa * bb - ab * ab
        step_a = (bb * gradient_a - ab * gradient_b) / determinant
        step_b = (aa * gradient_b - ab * gradient_a) / determinant
        # A long step would leave the region in which the quadratic approximation holds.
        shorter = np.minimum(1.0, 2.0 / np.maximum(np.maximum(np.abs(step_a), np.abs(step_b)), 1e-12))
        a, b = a + shorter * step_a, b + shorter * step_b
        if max(np.abs(step_a).max(), np.abs(step_b).max()) < 1e-9:
            break
    return sigmoid(a)


def over_trainings(values: F64, seed: int) -> F64:
    """Mean over trainings of a statistic, (S, B) to (B,), every draw but the first resamples the S trainings."""
    num_trainings, num_draws = values.shape
    taken = np.random.default_rng(seed).integers(num_trainings, size=(num_trainings, num_draws))
    taken[:, 0] = np.arange(num_trainings)
    return np.take_along_axis(values, taken, axis=0).mean(0)


@dataclass(frozen=True)
class Estimate:
    """mean: over all prompts and trainings; low, high: the middle 95 % of the bootstrap's draws."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: F64) -> "Estimate":
        """draws: (B,), first the measured value, then those of the bootstrap."""
        tail = (1 - COVERAGE) / 2
        low, high = np.quantile(draws[1:], [tail, 1 - tail])
        return cls(float(draws[0]), float(low), float(high))

    @classmethod
    def between(cls, values: Sequence[float]) -> "Estimate":
        """values: one of each of at least two worlds. Student's t, so that few worlds make a wide interval."""
        mean = float(np.mean(values))
        half = float(student_t.ppf((1 + COVERAGE) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
        return cls(mean, mean - half, mean + half)


def sums_by_prompt(values: F64, prompt: I64, num_prompts: int) -> tuple[F64, F64]:
    """(sum, count) of the values per prompt, without NaN. values, prompt: (N,). Returns two of shape (P,)."""
    known = ~np.isnan(values)
    total = np.bincount(prompt[known], values[known], num_prompts)
    return total, np.bincount(prompt[known], minlength=num_prompts).astype(np.float64)

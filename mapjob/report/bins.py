"""Pairs counted in bins, for the figures of a report: a few thousand numbers for any corpus.

They are counted a piece at a time, so counting costs the same memory for any corpus too.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64

MOST_CELLS = 48  # of the density, each way; fewer for few pairs
BINS = 40
PIECE = 2**17  # pairs that are counted at once
WITHIN = 0.995  # share of the pairs that the axes reach, or more
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Density:
    """Pairs in the cells of a grid. edges: of the cells along both axes, from 0; counts, selected: (cells, cells) of
    all pairs and of those that are selected; num_beyond: pairs that lie beyond the axes.
    """

    edges: tuple[list[float], list[float]]
    counts: list[list[int]]
    selected: list[list[int]]
    num_beyond: int


@dataclass(frozen=True)
class Histogram:
    """Pairs in bins of a number, as in a Density. edges: (bins + 1,); counts, selected: (bins,)."""

    edges: list[float]
    counts: list[int]
    selected: list[int]
    num_beyond: int


def density(reward_margin: F64, implicit_margin: F64, kept: Bools) -> Density:
    """Explicit against implicit margin, absolute. reward_margin, implicit_margin and kept: (N,)."""
    cells = min(MOST_CELLS, 8 + int(len(kept) ** 0.5 / 4))
    edges = [np.linspace(0.0, _reach(np.abs(margin)), cells + 1) for margin in (reward_margin, implicit_margin)]
    counts, selected = np.zeros((cells, cells), np.int64), np.zeros((cells, cells), np.int64)
    for start in range(0, len(kept), PIECE):
        piece = slice(start, start + PIECE)
        x, y, own = np.abs(reward_margin[piece]), np.abs(implicit_margin[piece]), kept[piece]
        counts += np.histogram2d(x, y, edges)[0].astype(np.int64)
        selected += np.histogram2d(x[own], y[own], edges)[0].astype(np.int64)
    beyond = len(kept) - int(counts.sum())
    return Density((edges[0].tolist(), edges[1].tolist()), counts.tolist(), selected.tolist(), beyond)


def histogram(values: npt.NDArray, kept: Bools) -> Histogram:
    """A number of every pair; whole numbers have whole bins. values, kept: (N,)."""
    low = float(np.quantile(values, 1 - WITHIN, method="lower"))
    high = float(np.quantile(values, WITHIN, method="higher"))
    if np.issubdtype(values.dtype, np.integer):
        width = int(high - low) // BINS + 1
        edges = low - 0.5 + width * np.arange(int(high - low) // width + 2)
    else:
        edges = np.linspace(low, high, BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    counts, selected = np.histogram(values, edges)[0], np.histogram(values[kept], edges)[0]
    return Histogram(edges.tolist(), counts.tolist(), selected.tolist(), len(values) - int(counts.sum()))


def _reach(values: F64) -> float:
    """End of an axis that starts at 0."""
    return 1.02 * float(np.quantile(values, WITHIN, method="higher")) or 1.02 * float(values.max()) or 1.0

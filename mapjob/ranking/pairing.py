"""Which two completions of a record form the pair that is ranked."""

import numpy as np
import numpy.typing as npt

from mapjob.metrics.statistics import F64
from mapjob.ranking.order import I64


def labelled(num_completions: I64) -> tuple[I64, I64]:
    """Preference data: completion 0 is chosen, completion 1 rejected. Returns two arrays of shape (N,)."""
    return np.zeros(len(num_completions), np.int64), np.ones(len(num_completions), np.int64)


def best_worst(rewards: F64, offsets: I64) -> tuple[I64, I64]:
    """Best against worst completion by reward, the first of equals (Huang et al. 2025, arXiv 2503.01864, self-play).

    rewards: all completions of all records in a row; offsets: (N + 1,), where each record's completions start.
    Returns (chosen, rejected): index inside the record, each of shape (N,).
    """
    num = np.diff(offsets)
    owner = np.repeat(np.arange(len(num)), num)
    best = np.lexsort((np.arange(len(rewards)), -rewards, owner))[offsets[:-1]] - offsets[:-1]
    # Among all-equal rewards the last one is the worst, so that a pair never holds one completion twice.
    worst = np.lexsort((-np.arange(len(rewards)), rewards, owner))[offsets[:-1]] - offsets[:-1]
    return best, worst


def gather(values: npt.NDArray, offsets: I64, index: I64) -> F64:
    """values[offsets[i] + index[i]] as float64, shape (N,)."""
    return values[offsets[:-1] + index].astype(np.float64)

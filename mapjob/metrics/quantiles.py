"""Quantiles of columns that lie in pieces: exact, and the same bits as numpy's of the whole column."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mapjob import collective
from mapjob.arrays import F64


def order_keys(scores: F64) -> npt.NDArray[np.uint64]:
    """Whole numbers that rise where scores fall: a float64's bits, turned round. -0.0 and 0.0 are one value."""
    bits = (scores + 0.0).view(np.uint64)
    is_negative = bits >> np.uint64(63) == 1
    return np.where(is_negative, bits, bits ^ np.uint64(2**63 - 1))


DIGIT = 8  # bits of a key that are found in one round


def quantiles(wanted: Sequence[tuple[npt.NDArray, Sequence[float], str]]) -> list[F64]:
    """wanted: (values (N,) of this piece; shares in [0, 1]; method of numpy.quantile: linear, lower or higher), each
    with at least one value over all pieces. Returns the quantiles at these shares, 0.0 for -0.0.
    """
    if collective.num_pieces() == 1:
        return [np.quantile(values, shares, method=method) + 0.0 for values, shares, method in wanted]
    nums = collective.total(np.array([len(values) for values, _, _ in wanted]))
    exact = [(num - 1) * np.asarray(shares, float) for num, (_, shares, _) in zip(nums, wanted)]
    ranks = [np.unique(np.concatenate([np.floor(at), np.ceil(at)])).astype(int).tolist() for at in exact]
    of_ranks = _order_statistics([values for values, _, _ in wanted], ranks)
    results = []
    for at, of_rank, (_, _, method) in zip(exact, of_ranks, wanted):
        low, high = (np.array([of_rank[int(rank)] for rank in end(at)]) for end in (np.floor, np.ceil))
        between = _between(low, high, at - np.floor(at))
        results.append({"lower": low, "higher": high, "linear": between}[method])
    return results


def _between(low: F64, high: F64, share: F64) -> F64:
    """As numpy does it, from the nearer end."""
    return np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))


def _order_statistics(columns: list[npt.NDArray], ranks: list[list[int]]) -> list[dict[int, float]]:
    """The values of these ranks (0: the least) of each column, by rank."""
    keys = [np.sort(~order_keys(column.astype(np.float64))) for column in columns]
    targets = [(column, rank) for column, of_column in enumerate(ranks) for rank in of_column]
    prefixes = np.zeros(len(targets), np.uint64)  # of the keys that are sought
    digits = np.arange(1, 1 << DIGIT, dtype=np.uint64)
    for shift in range(64 - DIGIT, -1, -DIGIT):
        bounds = prefixes[:, None] + (digits << np.uint64(shift))
        below = np.stack([np.searchsorted(keys[column], of_target) for (column, _), of_target in zip(targets, bounds)])
        num_below = collective.total(below)
        digit = (num_below <= np.array([rank for _, rank in targets])[:, None]).sum(axis=1)
        prefixes += digit.astype(np.uint64) << np.uint64(shift)
    values: list[dict[int, float]] = [{} for _ in columns]
    for (column, rank), value in zip(targets, values_of(~prefixes)):
        values[column][rank] = float(value)
    return values


def values_of(keys: npt.NDArray[np.uint64]) -> F64:
    """The numbers that have these keys (see `order_keys`)."""
    is_negative = keys >> np.uint64(63) == 1
    return np.where(is_negative, keys, keys ^ np.uint64(2**63 - 1)).view(np.float64)

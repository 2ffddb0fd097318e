"""Exact repeats: the first occurrence stays, in corpus order."""

import numpy as np
import numpy.typing as npt


def is_repeat(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """True for every row whose 128-bit content key stands in an earlier row. keys: (N, 2); returns (N,)."""
    if len(keys) == 0:
        return np.zeros(0, bool)
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal keys stay in corpus order
    same_as_previous = (keys[order][1:] == keys[order][:-1]).all(axis=1)
    repeats = np.zeros(len(keys), bool)
    repeats[order[1:]] = same_as_previous
    return repeats

"""A cap that thins a ranking from the top: so many pairs of one prompt."""

import numpy as np
import numpy.typing as npt


def within_cap(keys_in_order: npt.NDArray, cap: int) -> npt.NDArray[np.bool_]:
    """True for the first `cap` rows of every key, in rank order. keys_in_order: (N,) of any sortable dtype."""
    if len(keys_in_order) == 0:
        return np.zeros(0, bool)
    order = np.argsort(keys_in_order, kind="stable")
    keys = keys_in_order[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    occurrence = np.empty(len(keys), np.int64)
    occurrence[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))
    return occurrence < cap

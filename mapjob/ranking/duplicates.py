"""Exact repeats: the first occurrence stays, in corpus order."""

import numpy as np
import numpy.typing as npt


def is_repeat(keys: npt.NDArray[np.uint64], either_way: bool = False) -> npt.NDArray[np.bool_]:
    """True for every row whose pair stands in an earlier row. Returns (N,).

    keys: (N, 2), of the chosen and of the rejected side, each with its prompt. either_way: the same two sides the other
    way round are a repeat too, as they are where the reward model and not the corpus says which side is chosen.
    """
    if len(keys) == 0:
        return np.zeros(0, bool)
    if either_way:
        keys = np.sort(keys, axis=1)
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal keys stay in corpus order
    same_as_previous = (keys[order][1:] == keys[order][:-1]).all(axis=1)
    repeats = np.zeros(len(keys), bool)
    repeats[order[1:]] = same_as_previous
    return repeats

"""Rows by a hash of their key: what needs all rows of a key is judged in one place, wherever a corpus is cut."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mapjob import collective
from mapjob.arrays import I64, Bools


def judge_by_key(keys: npt.NDArray[np.uint64], judge: Callable[[npt.NDArray[np.uint64]], Bools]) -> Bools:
    """judge(keys) of the rows of all pieces: wherever it is called, it has all rows with a key, in their order.

    keys: (N, 2), hashes. Returns (N,).
    """
    if collective.num_pieces() == 1:
        return judge(keys)
    num = collective.num_receivers(collective.total(keys.nbytes))
    receiver = ((keys[:, 0] ^ keys[:, 1]) >> np.uint64(32)) * np.uint64(num) >> np.uint64(32)
    order, edges = divide(receiver, num)
    received = collective.exchange(lambda: (keys[order[a:b]] for a, b in pairwise(edges)))
    verdicts = judge(np.concatenate(received)) if received else np.zeros(0, bool)
    result = np.empty(len(keys), bool)
    # Packed bits of all, of which each piece takes its part: small slices would cost the driver more than their bits.
    shared = collective.share((np.cumsum([0, *map(len, received)]), np.packbits(verdicts)))
    for (start, stop), (starts, bits) in zip(pairwise(edges), shared):
        first = int(starts[collective.index()])
        result[order[start:stop]] = np.unpackbits(bits, count=first + stop - start)[first:].astype(bool)
    return result


def divide(receiver: npt.NDArray, num: int) -> tuple[I64, I64]:
    """(rows by receiver, in their order; where the rows of each of `num` receivers start). receiver: (N,)."""
    receiver = receiver.astype(np.uint16)  # of which numpy's stable sort is a radix sort
    order = np.argsort(receiver, kind="stable")
    return order, np.searchsorted(receiver[order], np.arange(num + 1))

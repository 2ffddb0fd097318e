"""DCRM, the distance-calibrated reward margin: much difference in reward for little difference in the texts."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from mapjob.arrays import F64
from mapjob.metrics.elementary import tanh

TokenIds = npt.NDArray[np.integer]


def edit_distances(completions: Sequence[TokenIds]) -> npt.NDArray[np.int64]:
    """Levenshtein distance over token ids of every two completions of a record: insert, delete, replace cost 1 each.

    completions: N arrays of token ids. Returns (N * (N - 1) / 2,) in the order (0, 1), (0, 2), …, (1, 2), …, which is
    that of `pairing.all_pairs`; a preference pair has one distance.
    """
    ids = [completion.tolist() for completion in completions]
    return np.array([Levenshtein.distance(one, other) for one, other in combinations(ids, 2)], np.int64)


def dcrm(
    reward_margin: F64, edit_distance: npt.NDArray, chosen_logps: F64, rejected_logps: F64, scale: float = 1.0
) -> F64:
    """(sigma(scale * h) - 1/2) / (e + |s_w - s_l| + 1) (Huang and Goyal 2025, arXiv 2506.14157).

    Larger is better; the sign is that of h = r_w - r_l, so it is negative if the reward model contradicts the label.
    e is the edit distance in tokens, s a sum of log-probabilities in nats; shapes (N,). `scale` brings h to log-odds.
    That the two distances are added as they are, and the 1, was not checked against the authors' code; all its parts
    are columns.
    """
    # sigma(x) - 1/2 = tanh(x / 2) / 2 keeps the digits of small margins.
    return 0.5 * tanh(0.5 * scale * reward_margin) / (edit_distance + np.abs(chosen_logps - rejected_logps) + 1.0)

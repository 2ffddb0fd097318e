"""Near duplicates by MinHash: records whose words are almost the same, of which only the best pair is kept.

Jaccard similarity of the sets of five-word shingles, estimated from 128 hashes (Broder 1997): the standard error is at
most 0.045. datasketch makes the signatures, and finds by locality-sensitive hashing what to compare.
"""

import re

import numpy as np
import numpy.typing as npt
from datasketch import LeanMinHash, MinHash, MinHashLSH

from mapjob.arrays import I64

FEW_MISSES, MORE_TO_COMPARE = 0.9, 0.1
NUM_HASHES, SHINGLE = 128, 5
SCHEME, SEED = "affine32", 1
COVERS = {"hashes": NUM_HASHES, "words": SHINGLE, "scheme": SCHEME, "seed": SEED}  # what decides a signature


def signature(text: str) -> npt.NDArray[np.uint32]:
    """MinHash of a text's five-word shingles (of all its words if it has fewer), without case. Shape (128,)."""
    words = re.findall(r"\w+", text.lower())
    shingles = {" ".join(words[i : i + SHINGLE]).encode() for i in range(max(1, len(words) - SHINGLE + 1))}
    sketch = MinHash(num_perm=NUM_HASHES, seed=SEED, scheme=SCHEME)
    sketch.update_batch(sorted(shingles))
    return sketch.hashvalues


def unlike_better(
    signatures: npt.NDArray[np.uint32], rows: I64, similarity: float, max_kept: int | None = None
) -> npt.NDArray[np.bool_]:
    """True for pairs that are not nearly the same as a better one that is kept; (N,), best first.

    signatures: (N, 128) and rows: (N,), in this order. The pairs of one row of the corpus share its text, so they are
    never each other's near duplicates. max_kept: once so many are kept the search ends, and the rest is False.
    """
    # A pair that is not compared passes, so the index errs on the side of comparing; what it finds is compared in full.
    index = MinHashLSH(threshold=similarity, num_perm=NUM_HASHES, weights=(MORE_TO_COMPARE, FEW_MISSES))
    kept = np.zeros(len(signatures), bool)
    verdicts: dict[int, bool] = {}
    num_kept = 0
    for pair, row in enumerate(rows.tolist()):
        if num_kept == max_kept:
            break
        if row not in verdicts:
            sketch = LeanMinHash(seed=SEED, hashvalues=signatures[pair], scheme=SCHEME)
            likenesses = (np.mean(signatures[pair] == signatures[better]) for better in index.query(sketch))
            verdicts[row] = all(likeness < similarity for likeness in likenesses)
            if verdicts[row]:
                index.insert(pair, sketch)
        kept[pair] = verdicts[row]
        num_kept += kept[pair]
    return kept

"""MinHash signatures: 128 numbers of which the share that two texts have in common estimates their likeness."""

import re

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

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

"""Which prompts are held out: decided by the prompt alone, so that no prompt is on both sides, tonight or tomorrow."""

import numpy as np
import numpy.typing as npt


def is_held_out(prompt_key: npt.NDArray[np.uint64], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """True for the pairs of the held-out prompts, about `share` of all prompts. prompt_key: (N, 2). Returns (N,)."""
    # Keys are hashes; the seed is mixed in by the finaliser of splitmix64 (Steele, Lea and Flood 2014).
    with np.errstate(over="ignore"):
        mixed = prompt_key[:, 0] + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) < np.uint64(share * 2**53)

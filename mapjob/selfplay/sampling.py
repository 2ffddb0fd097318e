"""Sampling by named random numbers: what is drawn hangs on the seed, the prompt, the sample and the step, nothing else.

One uniform number decides a token: the first in the order of the vocabulary whose cumulative probability exceeds it. So
neither batch-mates nor an earlier call move what a response is made of; only rounding of the probabilities could.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import torch

from mapjob.config.generation import Generation

CANDIDATES = 256  # tokens that top_p looks at first; nearly always they hold that much probability


def uniforms(seed: int, key: str, num: int) -> npt.NDArray[np.float64]:
    """`num` numbers in [0, 1) that hang on seed and key alone, the same on every machine. Shape (num,)."""
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=16).digest()
    raw = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(num)
    return (raw >> np.uint64(11)) * 2.0**-53


def draw(logits_BV: torch.Tensor, uniform_B: torch.Tensor, generation: Generation) -> tuple[torch.Tensor, torch.Tensor]:
    """(token, its log-probability in nats under the logits as they are) for each row, shapes (B,).

    logits_BV: float32. uniform_B: float64 in [0, 1). Temperature first, then top_k, then top_p of what that leaves.
    """
    if generation.temperature == 0:
        token_B = logits_BV.argmax(1)
    else:
        probs_BV = (logits_BV / generation.temperature).softmax(1)
        kept_BK, tokens_BK = _nucleus(probs_BV, generation.top_p, generation.top_k)
        cumulative_BK = kept_BK.double().cumsum(1)
        target_B1 = uniform_B[:, None] * cumulative_BK[:, -1:]
        place_B1 = torch.searchsorted(cumulative_BK, target_B1, right=True).clamp(max=kept_BK.shape[1] - 1)
        token_B = (place_B1 if tokens_BK is None else tokens_BK.gather(1, place_B1))[:, 0]
    return token_B, logits_BV.gather(1, token_B[:, None])[:, 0] - logits_BV.logsumexp(1)


def _nucleus(probs_BV: torch.Tensor, top_p: float, top_k: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(probabilities, their tokens in rising order) of what is drawn from; 0 for what is not. Tokens None: all of them.

    top_p (Holtzman et al. 2020, arXiv 1904.09751): the smallest set of the most probable tokens that holds top_p.
    """
    vocabulary = probs_BV.shape[1]
    if top_p == 1 and top_k is None:
        return probs_BV, None
    best_BK, tokens_BK = probs_BV.topk(min(vocabulary, top_k or CANDIDATES))
    if top_k is None and bool((best_BK.sum(1) < top_p).any()):
        best_BK, tokens_BK = probs_BV.sort(1, descending=True)
    share_BK = best_BK / best_BK.sum(1, keepdim=True) if top_k is not None else best_BK
    before_BK = share_BK.cumsum(1) - share_BK
    kept_BK = best_BK * (before_BK < top_p)
    tokens_BK, order_BK = tokens_BK.sort(1)
    return kept_BK.gather(1, order_BK), tokens_BK

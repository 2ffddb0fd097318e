"""Responses written side by side by one causal model: rows leave the batch as they end, and new prompts join it.

A prompt is computed once for all its samples. Rows are padded on the left; positions count a row's own tokens.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from mapjob.lab.selfplay.config import Generation

# Sampling by named random numbers: a token depends on the seed, the prompt, the sample and the step, nothing else. One
# uniform number decides it: the first token in the order of the vocabulary whose cumulative probability exceeds it. So
# neither batch-mates nor an earlier call change a response; only rounding of the probabilities could.

CANDIDATES = 256  # tokens that top_p looks at first; nearly always they hold that much probability


def uniforms(seed: int, key: str, num: int) -> npt.NDArray[np.float64]:
    """`num` numbers in [0, 1) that depend on seed and key alone, the same on every machine. Shape (num,)."""
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
        index_B1 = torch.searchsorted(cumulative_BK, target_B1, right=True).clamp(max=kept_BK.shape[1] - 1)
        token_B = (index_B1 if tokens_BK is None else tokens_BK.gather(1, index_B1))[:, 0]
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


JOIN_SHARE = 0.25  # of the rows must be free before prompts join: a forward pass for one row costs nearly that of many


@dataclass
class Row:
    """One response while it is written. logps: of each token, in nats, under the model as it is."""

    index: int  # of its prompt
    sample: int
    uniforms: npt.NDArray[np.float64]
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finished: bool = False  # by a stop token; else max_new_tokens ended it


class RollingBatch:
    """`write` answers prompts. stops: tokens that end a response. num_rows: responses that are written side by side."""

    def __init__(self, model: PreTrainedModel, stops: frozenset[int], generation: Generation, num_rows: int):
        self._model, self._stops, self._generation, self._num_rows = model, stops, generation, num_rows

    @torch.inference_mode()
    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], num_samples: int) -> Iterator[Row]:
        """Rows as they end. keys: what a prompt's random numbers are drawn from, beside the seed and the sample.

        Longest prompts first, so that too little memory shows at once.
        """
        waiting = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index])))
        batch = _Batch(self._model)
        while waiting or batch.rows:
            free = (self._num_rows - len(batch.rows)) // num_samples
            if waiting and (not batch.rows or free * num_samples >= JOIN_SHARE * self._num_rows):
                indices = [waiting.popleft() for _ in range(min(max(1, free), len(waiting)))]
                rows = [self._begin(index, sample, keys[index]) for index in indices for sample in range(num_samples)]
                logits_BV = batch.join([prompts[index] for index in indices], rows, num_samples)
                yield from self._extend(batch, rows, logits_BV, len(batch.rows) - len(rows))
            else:
                yield from self._extend(batch, batch.rows, batch.step(), 0)

    def _begin(self, index: int, sample: int, key: str) -> Row:
        generation = self._generation
        return Row(index, sample, uniforms(generation.seed, f"{key}\0{sample}", generation.max_new_tokens))

    def _extend(self, batch: "_Batch", rows: list[Row], logits_BV: torch.Tensor, start: int) -> list[Row]:
        """Give each of `rows`, which are in the batch from `start` on, its next token; rows that end leave it."""
        uniform_B = torch.tensor([row.uniforms[len(row.tokens)] for row in rows], device=logits_BV.device)
        token_B, logp_B = draw(logits_BV.float(), uniform_B, self._generation)
        for row, token, logp in zip(rows, token_B.tolist(), logp_B.tolist()):
            row.tokens.append(token)
            row.logps.append(logp)
            row.finished = token in self._stops
        ended = [row for row in rows if self._has_ended(row)]
        if ended:
            batch.keep([index for index, row in enumerate(batch.rows) if not self._has_ended(row)])
        return ended

    def _has_ended(self, row: Row) -> bool:
        return row.finished or len(row.tokens) == self._generation.max_new_tokens


class _Batch:
    """The rows that are being written, with their keys and values; the last token of a row is not in the cache yet."""

    def __init__(self, model: PreTrainedModel):
        self.rows: list[Row] = []
        self._model = model
        self._cache: DynamicCache | None = None
        self._mask_BL = torch.zeros(0, 0, dtype=torch.long, device=model.device)

    def join(self, prompts: Sequence[Sequence[int]], rows: list[Row], num_samples: int) -> torch.Tensor:
        """Compute the prompts, and add `num_samples` rows for each. Returns the logits of the new rows, (B, V)."""
        width = max(map(len, prompts))
        ids_PL = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts])
        mask_PL = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        cache = DynamicCache()
        logits_PV = self._forward(ids_PL.to(self._model.device), mask_PL.to(self._model.device), cache)
        cache.batch_repeat_interleave(num_samples)
        mask_BL = mask_PL.to(self._model.device).repeat_interleave(num_samples, 0)
        if self._cache is None:
            self._cache, self._mask_BL = cache, mask_BL
        else:
            width = max(self._mask_BL.shape[1], mask_BL.shape[1])
            for layer, new in zip(self._cache.layers, cache.layers):
                layer.keys = torch.cat([_pad_front(layer.keys, width, -2), _pad_front(new.keys, width, -2)])
                layer.values = torch.cat([_pad_front(layer.values, width, -2), _pad_front(new.values, width, -2)])
            self._mask_BL = torch.cat([_pad_front(self._mask_BL, width, -1), _pad_front(mask_BL, width, -1)])
        self.rows = self.rows + rows
        return logits_PV.repeat_interleave(num_samples, 0)

    def step(self) -> torch.Tensor:
        """Logits behind the last token of every row, (B, V)."""
        last_B1 = torch.tensor([row.tokens[-1:] for row in self.rows], device=self._mask_BL.device)
        self._mask_BL = torch.cat([self._mask_BL, torch.ones_like(last_B1)], 1)
        assert self._cache is not None, "rows have joined"
        return self._forward(last_B1, self._mask_BL, self._cache)

    def keep(self, indices: list[int]) -> None:
        """Drop the other rows, and the padding that none of the rest needs."""
        self.rows = [self.rows[index] for index in indices]
        if not indices:
            self._cache = None
            return
        assert self._cache is not None, "rows have joined"
        index_B = torch.tensor(indices, device=self._mask_BL.device)
        self._cache.batch_select_indices(index_B)
        self._mask_BL = self._mask_BL[index_B]
        padding = int(self._mask_BL.argmax(1).min())
        if padding:
            self._mask_BL = self._mask_BL[:, padding:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, padding:], layer.values[:, :, padding:]

    def _forward(self, ids_BT: torch.Tensor, mask_BL: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        positions_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)
        return self._model(
            input_ids=ids_BT,
            attention_mask=mask_BL,
            position_ids=positions_BL[:, -ids_BT.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]


def _pad_front(values: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    """The tensor with zeros in front along a dimension (-1 or -2), so that it is `width` long there."""
    return pad(values, [0, 0] * (-1 - dim) + [width - values.shape[dim], 0])

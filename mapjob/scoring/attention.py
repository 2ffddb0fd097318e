"""Attention over a pack, as one function that transformers' models call in place of their own.

While a pack runs, its layout is the current one; every attention layer gathers the keys and values that the segments
see, and attends each segment to its own. On CUDA that is one call of torch's variable-length flash attention; on CPU,
and for what that kernel cannot do (float32, soft caps, wide heads), a loop over segments and blocks of queries.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from transformers import AttentionInterface

from mapjob.scoring.pack_layout import Layout, on_device

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch built without it
    varlen_attn = None

NAME = "mapjob_packed"
QUERY_BLOCK = 128  # queries whose scores exist at one time on CPU: they stay in the caches


class CannotPack(Exception):
    """The model asks its attention for something that packs do not do."""


@dataclass
class Segments:
    """A layout's segments on a device, and the sliding windows that the layers asked for while they were current."""

    seen_K: torch.Tensor
    cu_q: torch.Tensor
    cu_k: torch.Tensor
    queries: list[int]
    keys: list[int]
    windows: set[int | None]

    @classmethod
    def of(cls, layout: Layout, device: torch.device) -> "Segments":
        cumulated = (np.concatenate([[0], np.cumsum(n)]).astype(np.int32) for n in (layout.queries_S, layout.keys_S))
        tensors = (on_device(array, device) for array in (layout.seen_K, *cumulated))
        return cls(*tensors, layout.queries_S.tolist(), layout.keys_S.tolist(), set())

    def to(self, device: torch.device) -> "Segments":
        """The same on another device, for a model that is spread over several."""
        if self.seen_K.device == device:
            return self
        tensors = (t.to(device, non_blocking=True) for t in (self.seen_K, self.cu_q, self.cu_k))
        return Segments(*tensors, self.queries, self.keys, self.windows)


_current: ContextVar[Segments] = ContextVar("segments")


@contextmanager
def attending(segments: Segments) -> Iterator[Segments]:
    """Inside, the registered attention works on these segments."""
    token = _current.set(segments)
    try:
        yield segments
    finally:
        _current.reset(token)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer over the current pack: query (1, Hq, T, D), key and value (1, Hkv, T, D) -> (1, T, Hq, D).

    sliding_window w: a token sees itself and the w - 1 tokens before it. softcap c: scores become c·tanh(scores / c).
    """
    if asked := [name for name in ("s_aux", "sinks", "position_bias") if kwargs.get(name) is not None]:
        raise CannotPack(f"its attention takes {asked[0]}")
    segments = _current.get().to(query.device)
    segments.windows.add(sliding_window)
    query_THD, key_THD, value_THD = (t[0].transpose(0, 1) for t in (query, key, value))
    key_KHD, value_KHD = key_THD.index_select(0, segments.seen_K), value_THD.index_select(0, segments.seen_K)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    attend = flash_segments if _fits_flash(query_THD, value_THD, softcap) else loop_segments
    return attend(query_THD, key_KHD, value_KHD, segments, scaling, sliding_window, softcap)[None], None


AttentionInterface.register(NAME, packed_attention)


def _fits_flash(query: torch.Tensor, value: torch.Tensor, softcap: float | None) -> bool:
    half = query.dtype in (torch.bfloat16, torch.float16)
    fits = query.shape[-1] == value.shape[-1] <= 256
    return varlen_attn is not None and query.is_cuda and half and fits and softcap is None


def flash_segments(query_THD, key_KHD, value_KHD, segments, scaling, window, softcap) -> torch.Tensor:
    """All segments in one kernel (T, Hq, D). Its causal mask is aligned lower-right, as the layout needs it."""
    accepted = inspect.signature(varlen_attn).parameters
    options = {}
    if query_THD.shape[1] != key_KHD.shape[1]:
        if "enable_gqa" in accepted:
            options["enable_gqa"] = True
        else:
            repeats = query_THD.shape[1] // key_KHD.shape[1]
            key_KHD, value_KHD = (t.repeat_interleave(repeats, 1) for t in (key_KHD, value_KHD))
    if "num_splits" in accepted:
        options["num_splits"] = 1  # the same sums whatever else is in the pack
    longest = max(segments.queries), max(segments.keys)
    return varlen_attn(
        query_THD.contiguous(),
        key_KHD,
        value_KHD,
        segments.cu_q,
        segments.cu_k,
        *longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **options,
    )


def loop_segments(query_THD, key_KHD, value_KHD, segments, scaling, window, softcap) -> torch.Tensor:
    """Segment after segment (T, Hq, D), scores and softmax in float32.

    Blocks of matrix products beat the CPU's fused kernel here: 1.3 to 1.8 times in float32, about twice in bfloat16.
    Query heads that share a key head are rows of one product.
    """
    num_tokens, num_heads, size = query_THD.shape
    if key_KHD.shape[1] == 1:
        # A batch of one product would be cut up among the threads, and its sums depend on their number.
        key_KHD, value_KHD = (t.expand(-1, num_heads, -1) for t in (key_KHD, value_KHD))
    groups = key_KHD.shape[1]
    out_THD = query_THD.new_empty(num_tokens, num_heads, value_KHD.shape[-1])
    queries_GRTD = query_THD.transpose(0, 1).reshape(groups, num_heads // groups, num_tokens, size).float() * scaling
    keys_GDK = key_KHD.permute(1, 2, 0).float()
    values_GKD = value_KHD.transpose(0, 1)
    q = k = 0
    for num_queries, num_keys in zip(segments.queries, segments.keys):
        values_and_keys = values_GKD[:, k : k + num_keys], keys_GDK[:, :, k : k + num_keys]
        for start in range(0, num_queries, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, num_queries)
            block = queries_GRTD[:, :, q + start : q + stop]
            out = _attend_block(block, *values_and_keys, start + num_keys - num_queries, window, softcap)
            out_THD[q + start : q + stop] = out.flatten(0, 1).transpose(0, 1)
        q, k = q + num_queries, k + num_keys
    return out_THD


@cache
def _later_keys(device: torch.device) -> torch.Tensor:
    """-inf where a key of a block comes after the query (B, B)."""
    return torch.full((QUERY_BLOCK, QUERY_BLOCK), -torch.inf, device=device).triu_(1)


def _attend_block(queries_GRBD, values_GKD, keys_GDK, before: int, window: int | None, softcap: float | None):
    """Attention (G, R, B, D) of a block of B queries that has `before` keys before its first query's own."""
    repeats, size = queries_GRBD.shape[1:3]
    first = 0 if window is None else max(0, before - window + 1)
    stop = before + size
    scores = torch.bmm(queries_GRBD.flatten(1, 2), keys_GDK[:, :, first:stop]).unflatten(1, (repeats, size))
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    scores[..., before - first :] += _later_keys(scores.device)[:size, :size]
    if window is not None and first < stop - window:
        # Only the first columns can be out of the window of the block's later queries.
        positions = torch.arange(first, stop, device=scores.device)
        distance = positions[before - first :, None] - positions
        scores.masked_fill_(distance >= window, -torch.inf)
    weights = torch.softmax(scores, -1).flatten(1, 2).to(values_GKD.dtype)
    return torch.bmm(weights, values_GKD[:, first:stop]).unflatten(1, (repeats, size))

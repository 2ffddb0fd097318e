"""What the CUDA kernel is handed, checked on CPU: an independent reading of its documentation stands in for it.

A whole scorer runs through `flash_segments`, and its numbers are those of the loop over segments.
"""

import numpy as np
import pytest
import torch

from mapjob.scoring import attention
from mapjob.scoring.encode import Encoded
from tests.golden.random_ids import make_models, make_scorers, numbers, random_record
from tests.golden.reference import flat

SHAPES = [(20, [9, 30]), (7, [1, 6, 2]), (0, [10, 3]), (1, [1]), (60, [70]), (31, [4, 4, 17, 40, 1])]
calls: list[dict] = []


def attend_each_segment(query, key, value, cu_q, cu_k, max_q, max_k, scale, left, heads_per_key_head) -> torch.Tensor:
    """Each segment by itself in float64; query i of n stands at key m - n + i of its m keys."""
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert cu_q[0] == cu_k[0] == 0
    assert (cu_q[-1], cu_k[-1]) == (len(query), len(key)) == (cu_q[-1], len(value))
    assert (max_q, max_k) == (cu_q.diff().max(), cu_k.diff().max())
    assert query.shape[1] == key.shape[1] * heads_per_key_head
    calls.append({"segments": len(cu_q) - 1, "left": left})
    out = torch.full_like(query, torch.nan)
    for s in range(len(cu_q) - 1):
        queries, keys = slice(cu_q[s], cu_q[s + 1]), slice(cu_k[s], cu_k[s + 1])
        num_queries, num_keys = queries.stop - queries.start, keys.stop - keys.start
        here = torch.arange(num_queries)[:, None] + num_keys - num_queries
        behind = here - torch.arange(num_keys)[None, :]
        seen = (behind >= 0) & ((behind <= left) | (left < 0))
        for head in range(query.shape[1]):
            k, v = (t[keys, head // heads_per_key_head].double() for t in (key, value))
            scores = (query[queries, head].double() @ k.T * scale).masked_fill(~seen, -torch.inf)
            out[queries, head] = (scores.softmax(1) @ v).to(query.dtype)
    return out


def varlen_attn_of_today(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=False, num_splits=None
):
    assert num_splits == 1
    assert window_size[1] == 0
    assert enable_gqa or query.shape[1] == key.shape[1]
    ratio = query.shape[1] // key.shape[1]
    return attend_each_segment(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size[0], ratio)


def varlen_attn_of_old(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
    """As many key heads as query heads, and no say about splits."""
    assert window_size[1] == 0
    return attend_each_segment(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size[0], 1)


def records() -> list[Encoded]:
    generator = np.random.default_rng(0)
    return [random_record(generator, prompt, lengths, 400) for prompt, lengths in SHAPES]


@pytest.mark.parametrize("kernel", [varlen_attn_of_today, varlen_attn_of_old], ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize(("architecture", "left"), [("llama", -1), ("mistral", 15), ("gpt2", -1)])
def test_flash_segments_are_the_loops(tmp_path, monkeypatch, architecture, left, kernel):
    models = make_models(tmp_path, architecture)
    expected = {name: flat(numbers(scorer, records())) for name, scorer in make_scorers(models).items()}
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "_fits_flash", lambda *_: True)
    for name, scorer in make_scorers(models).items():
        assert scorer.backbone.why_not_packed is None
        calls.clear()
        ours = flat(numbers(scorer, records()))
        deviations = np.abs(np.array(ours) - expected[name]) / np.maximum(np.abs(expected[name]), 0.1)
        print(f"{architecture}, {name}: largest relative deviation {deviations.max():.2e}")
        assert deviations.max() <= 1e-5  # a reward near 0 has no digits of its own
        # One pack, a call in each of two layers: prompts, completions, and what pads the pack.
        segments = sum((prompt > 0) + len(lengths) for prompt, lengths in SHAPES)
        assert calls == 2 * [{"segments": segments + 1, "left": left}]

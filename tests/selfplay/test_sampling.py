"""Drawing tokens: against plain loops in float64, and by nothing but the numbers given."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjob.lab.selfplay.config import Generation
from mapjob.lab.selfplay.rolling import draw, uniforms


def plain_draw(logits: list[float], uniform: float, temperature: float, top_p: float, top_k: int | None) -> int:
    """One token, by loops over Python floats."""
    scaled = np.exp((np.array(logits) - max(logits)) / temperature)
    probs = scaled / scaled.sum()
    best_first = sorted(range(len(probs)), key=lambda token: (-probs[token], token))[: top_k or len(probs)]
    whole = sum(probs[token] for token in best_first)
    kept, held = [], 0.0
    for token in best_first:
        if held < top_p:
            kept.append(token)
        held += probs[token] / whole
    target, total = uniform * sum(probs[token] for token in kept), 0.0
    for token in sorted(kept):
        total += probs[token]
        if total > target:
            return token
    return max(kept)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([2, 7, 300, 1000]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_p=st.sampled_from([0.1, 0.9, 0.95, 1.0]),
    top_k=st.sampled_from([None, 1, 5]),
)
def test_draws_are_those_of_plain_loops(seed, size, temperature, top_p, top_k):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, size, generator=generator) * 3
    uniform = torch.rand(4, generator=generator, dtype=torch.float64)
    tokens, logps = draw(logits, uniform, Generation(temperature=temperature, top_p=top_p, top_k=top_k))
    own = logits.double().log_softmax(1)
    for row in range(4):
        expected = plain_draw(logits[row].double().tolist(), uniform[row].item(), temperature, top_p, top_k)
        assert tokens[row] == expected
        assert logps[row].item() == pytest.approx(own[row, expected].item(), abs=1e-4)


def test_frequencies_are_the_probabilities():
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0]]).repeat(20_000, 1)
    uniform = torch.tensor(uniforms(0, "frequencies", 20_000))
    tokens, _ = draw(logits, uniform, Generation(temperature=1.0, top_p=1.0))
    share = torch.bincount(tokens, minlength=4) / 20_000
    torch.testing.assert_close(share, logits[0].softmax(0), atol=0.012, rtol=0)


def test_temperature_0_takes_the_most_probable():
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    tokens, _ = draw(logits, torch.full((5,), 0.99, dtype=torch.float64), Generation(temperature=0))
    assert tokens.tolist() == logits.argmax(1).tolist()


def test_uniforms_hang_on_seed_and_key_alone():
    numbers = uniforms(7, "a prompt\x000", 1000)
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    assert abs(numbers.mean() - 0.5) < 0.03
    assert uniforms(7, "a prompt\x000", 10).tolist() == numbers[:10].tolist()
    assert uniforms(8, "a prompt\x000", 10).tolist() != numbers[:10].tolist()
    assert uniforms(7, "a prompt\x001", 10).tolist() != numbers[:10].tolist()
    # On every machine and with every version: a stored corpus is made again from its seed.
    assert uniforms(0, "key", 2).tolist() == PINNED


PINNED = [0.9667840490190117, 0.9781138908262942]

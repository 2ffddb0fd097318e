"""Log-probabilities from tiles of the vocabulary, against a float64 log-softmax over all of it."""

import math

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from mapjob.scoring.vocabulary import ROW_MULTIPLE, ROWS, TILE, VocabularyHead

SIZES = [5, 400, 2048, 2049, 5000, 32001]
NUM_ROWS = [1, 15, 16, 1025]
HIDDEN = 32
TRANSFORMS = {
    "plain": {},
    "logit_scale": {"logit_scale": 0.0625},
    "logits_scaling": {"logits_scaling": 8.0},
    "soft cap": {"final_logit_softcapping": 3.0},
    "scale and soft cap": {"logit_scale": 0.5, "final_logit_softcapping": 3.0},
}


def model_of(size: int, bias: bool = False, dtype: str = "float32", **transform: float) -> LlamaForCausalLM:
    """A model whose output embedding is all that matters; logits have a standard deviation of about 3."""
    torch.manual_seed(0)
    shape = {"hidden_size": HIDDEN, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=size, **shape, **transform))
    model.lm_head = nn.Linear(HIDDEN, size, bias=bias)
    nn.init.normal_(model.lm_head.weight, std=3 / math.sqrt(HIDDEN))
    if bias:
        nn.init.normal_(model.lm_head.bias)
    return model.to(getattr(torch, dtype)).requires_grad_(False)


def states_and_targets(num_rows: int, size: int, dtype: str = "float32") -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(num_rows, HIDDEN, generator=generator).to(getattr(torch, dtype))
    targets = torch.randint(size, (num_rows,), generator=generator)
    edges = torch.tensor([0, size - 1, *(t for t in range(TILE["cpu"] - 1, size, TILE["cpu"] // 2))])
    targets[: len(edges)] = edges[:num_rows]
    return states, targets


def in_float64(model: LlamaForCausalLM, states: torch.Tensor, targets: torch.Tensor, **transform: float):
    logits = states.double() @ model.lm_head.weight.double().T
    if model.lm_head.bias is not None:
        logits += model.lm_head.bias.double()
    logits *= transform.get("logit_scale", 1.0) / transform.get("logits_scaling", 1.0)
    if cap := transform.get("final_logit_softcapping"):
        logits = cap * torch.tanh(logits / cap)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def assert_close(ours: torch.Tensor, exact: torch.Tensor, atol: float = 1e-5) -> None:
    assert ours.dtype == torch.float32
    print(f"largest deviation {(ours.double() - exact).abs().max():.2e}, of values down to {exact.min():.1f}")
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=atol)


@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize("size", SIZES)
def test_rows_and_sizes(size, num_rows):
    model, (states, targets) = model_of(size), states_and_targets(num_rows, size)
    assert_close(VocabularyHead(model).token_logps(states, targets), in_float64(model, states, targets))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [400, 5000])
def test_bias_scales_and_soft_caps(size, name, bias):
    transform = TRANSFORMS[name]
    model, (states, targets) = model_of(size, bias, **transform), states_and_targets(40, size)
    assert_close(VocabularyHead(model).token_logps(states, targets), in_float64(model, states, targets, **transform))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [400, 5000])
def test_half_precision_weights_lose_nothing_more(size, bias, dtype):
    """Products of rounded weights and states are exact, and their sums float32."""
    model, (states, targets) = model_of(size, bias, dtype), states_and_targets(40, size, dtype)
    assert_close(VocabularyHead(model).token_logps(states, targets), in_float64(model, states, targets))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zero_weights_are_uniform(size, dtype):
    model, (states, targets) = model_of(size, dtype=dtype), states_and_targets(40, size, dtype)
    model.lm_head.weight.zero_()
    logps = VocabularyHead(model).token_logps(states, targets)
    # One tile gives -ln V as float32 has it; each addition of a tile may round once more.
    roundings = 0 if size <= TILE["cpu"] else -(-size // TILE["cpu"])
    ulp = torch.finfo(torch.float32).eps * 8
    assert (logps + math.log(size)).abs().max() <= ulp * (0.5 + roundings)
    assert logps.unique().numel() == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("size", [5, 400, 5000])
@pytest.mark.parametrize("by", [1, 8, 16, 17, 20, 40, 1000])
def test_no_probability_above_one(size, dtype, by):
    """One token's logit is greater than all others by about so much, in any tile."""
    for token in {0, size // 2, size - 1}:
        model = model_of(size, dtype=dtype)
        model.lm_head.weight *= 0.01
        steps = torch.arange(ROW_MULTIPLE, dtype=model.dtype)[:, None] / 16
        states = torch.ones(ROW_MULTIPLE, HIDDEN).to(model.dtype) + steps
        model.lm_head.weight[token] = by / HIDDEN
        logps = VocabularyHead(model).token_logps(states, torch.full((ROW_MULTIPLE,), token))
        assert (logps <= 0).all()
        if by == 1000:
            assert (logps == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [5, 400, 2048, 5000])
def test_a_row_does_not_depend_on_the_others(size, dtype):
    model, num_rows = model_of(size, dtype=dtype), ROWS["cpu"] + 1
    states, targets = states_and_targets(num_rows, size, dtype)
    head = VocabularyHead(model)
    together = head.token_logps(states, targets)
    for start, stop in [(0, 1), (3, 4), (0, 15), (1, 17), (100, 133), (7, 1024), (1024, 1025)]:
        assert torch.equal(head.token_logps(states[start:stop], targets[start:stop]), together[start:stop])

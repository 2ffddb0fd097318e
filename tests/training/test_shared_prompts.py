"""A prompt computed once for both of its completions: the same sums and gradients, or computed twice."""

import random

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from trl.trainer.utils import add_fused_lm_head

from mapjob.lab.training.config import Training
from mapjob.lab.training.losses import simpo
from mapjob.lab.training.shared_prompts import IGNORED, join, takes_joined
from mapjob.lab.training.train import arguments
from mapjob.lab.training.trainer import SelectionTrainer
from tests.fakes import make_tokenizer

SHAPE = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def make_model(**changes: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.3, **changes))
    add_fused_lm_head(model)
    return model


def draw_batch(rng: random.Random, num_pairs: int, shortest: int = 1) -> dict[str, Tensor]:
    """As TRL's collator makes it: padded on the right, the chosen sides first."""
    prompts = [[rng.randrange(50) for _ in range(rng.randint(shortest, 30))] for _ in range(num_pairs)]
    ends = [[rng.randrange(50) for _ in range(rng.randint(1, 9))] for _ in range(2 * num_pairs)]
    texts = [prompt + end for prompt, end in zip(prompts * 2, ends)]
    width = max(map(len, texts))
    masks = [
        [[0] * len(prompt) + [1] * len(end), [1] * (len(prompt) + len(end))] for prompt, end in zip(prompts * 2, ends)
    ]
    rows = [texts, *([mask[i] for mask in masks] for i in (0, 1))]
    names = ("input_ids", "completion_mask", "attention_mask")
    return {name: torch.tensor([v + [0] * (width - len(v)) for v in values]) for name, values in zip(names, rows)}


def sums_twice(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> Tensor:
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return model(**given, labels=labels, use_cache=False, fused_lm_head=True).log_probs.sum(1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sums_and_gradients_are_those_of_two_sequences(attention):
    rng, num_joined = random.Random(0), 0
    model = make_model(attn_implementation=attention)
    for _ in range(30):
        batch = draw_batch(rng, rng.randint(1, 5), shortest=8)
        joined = join(batch)
        if joined is None:
            continue
        num_joined += 1
        log_probs = model(**joined.inputs, use_cache=False, fused_lm_head=True).log_probs
        once, twice = joined.sum_sides(log_probs), sums_twice(model, batch)
        assert joined.inputs["input_ids"].numel() < batch["input_ids"].numel()
        torch.testing.assert_close(once, twice, rtol=1e-5, atol=1e-5)
        gradients = [torch.autograd.grad(sums.sum(), model.model.embed_tokens.weight)[0] for sums in (once, twice)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    assert num_joined > 20


def test_what_gets_no_smaller_and_empty_prompts_stay_two_sequences():
    short = {"input_ids": torch.ones(2, 9, dtype=torch.long), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    assert join({**short, "completion_mask": torch.tensor([[0] + [1] * 8] * 2)}) is None
    assert join({**short, "completion_mask": torch.tensor([[0] * 7 + [1] * 2] * 2)}) is not None
    assert join({**short, "completion_mask": torch.tensor([[0] * 7 + [1] * 2] * 2) * 0 + 1}) is None


def test_windows_keep_two_sequences():
    window = MistralForCausalLM(MistralConfig(**SHAPE, num_key_value_heads=4, sliding_window=4))
    assert takes_joined(make_model())
    assert not takes_joined(window)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_loss_that_would_change_is_computed_as_before(chat, tree, tmp_path, dropout):
    """Dropout is the loss of its own draws."""
    model = AutoModelForCausalLM.from_pretrained(tree["models"]["policy"]["path"], dtype=torch.float32)
    model.config.attention_dropout = dropout
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = dropout
    names = ["prompt", "chosen", "rejected", "chosen_num_tokens", "rejected_num_tokens"]
    trainer = SelectionTrainer(
        simpo,
        (),
        args=arguments(Training(batch_size=8, accumulate=1, max_steps=1), str(tmp_path / "trainer"), 512),
        model=model,
        train_dataset=Dataset(chat.folder.read_table(chat.folder.tables("selected")[0], names)),
        processing_class=make_tokenizer(),
    )
    trainer.train()
    assert trainer._may_join is (dropout == 0)

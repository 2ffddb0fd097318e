"""The world's two small Llamas, trained in plain PyTorch: the policy on mixed answers, the reward model on pairs."""

import logging
import math
import random
from collections.abc import Callable
from itertools import islice

import torch
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from mapjob.lab.world.tasks import QUALITY, stream, write_answer
from mapjob.lab.world.tokenizer import MAX_LENGTH, bucket, encode, pad

log = logging.getLogger(__name__)

# How often the policy sees a right answer. It becomes good at facts, fair at words and bad at arithmetic, so the groups
# differ in what is left to learn.
SHOWN_RIGHT = {"facts": 0.95, "words": 0.75, "arithmetic": 0.35}
_POLICY_BATCH, _POLICY_RATE = 32, 3e-3
# Prompts with one answer per level: the ten pairs of five answers then cost five forward passes, not twenty.
_REWARD_BATCH, _REWARD_RATE = 8, 1e-3
# Keeps rewards near zero; without it, kinds that are easy to judge drift to margins that dwarf all others.
_CENTRING = 0.03


def train_policy(tokenizer: PreTrainedTokenizerFast, *, steps: int, seed: int, hidden_size: int) -> LlamaForCausalLM:
    """Train a policy from scratch with cross-entropy on the assistant turn; returns it in eval mode, float32."""
    rng = random.Random(f"policy {seed}")
    dialogues = []
    for task in islice(stream("train", "policy", seed), steps * _POLICY_BATCH):
        right = rng.random() < SHOWN_RIGHT[task.group]
        level = rng.choice(("helpful", "terse") if right else ("near_miss", "evasive", "wrong"))
        dialogues.append((task.prompt, write_answer(task, level, rng)))
    examples = encode(tokenizer, dialogues)
    model = LlamaForCausalLM(_config(tokenizer, hidden_size))

    def loss_of(batch: list[int]) -> torch.Tensor:
        input_ids = pad([examples[i][0] for i in batch], tokenizer.pad_token_id)
        labels = pad([[-100] * start + ids[start:] for ids, start in (examples[i] for i in batch)], -100)
        targets = labels[:, 1:]
        learnt = targets != -100
        # Logits of the answers alone: those of the prompts would be half of all, and teach nothing.
        hidden = model.model(input_ids=input_ids).last_hidden_state[:, :-1]
        return cross_entropy(model.lm_head(hidden[learnt]), targets[learnt])

    _optimise(model, loss_of, bucket([len(ids) for ids, _ in examples], _POLICY_BATCH, rng), _POLICY_RATE)
    return model


def train_reward(
    tokenizer: PreTrainedTokenizerFast,
    policy: LlamaForCausalLM,
    *,
    steps: int,
    seed: int,
    flipped: float = 0.0,
) -> LlamaForSequenceClassification:
    """Train a reward model from the policy's body with the Bradley-Terry loss over all pairs of a prompt's answers.

    Pairs are labelled by gold quality, a share `flipped` of them wrongly. Returns the model in eval mode, float32.
    """
    rng = random.Random(f"reward {seed}")
    levels = sorted(QUALITY, key=QUALITY.__getitem__, reverse=True)
    better, worse = torch.triu_indices(len(levels), len(levels), offset=1)
    dialogues = []
    for task in islice(stream("train", "reward", seed), steps * _REWARD_BATCH):
        # One wording for all levels: the answers then differ in content only, and that is what the model must learn.
        wording = rng.random()
        dialogues += [(task.prompt, write_answer(task, level, random.Random(wording))) for level in levels]
    ids = [ids for ids, _ in encode(tokenizer, dialogues)]
    sets = [ids[i : i + len(levels)] for i in range(0, len(ids), len(levels))]
    coin = random.Random(f"reward labels {seed}")
    signs = torch.tensor([[1 - 2 * (coin.random() < flipped) for _ in better] for _ in sets])
    model = LlamaForSequenceClassification(_config(tokenizer, policy.config.hidden_size, num_labels=1))
    model.model.load_state_dict(policy.model.state_dict())

    def loss_of(batch: list[int]) -> torch.Tensor:
        input_ids = pad([answer for i in batch for answer in sets[i]], tokenizer.pad_token_id)
        rewards = model(input_ids=input_ids).logits.view(len(batch), len(levels))
        bradley_terry = -logsigmoid(signs[batch] * (rewards[:, better] - rewards[:, worse])).mean()
        return bradley_terry + _CENTRING * rewards.square().mean()

    batches = bucket([max(map(len, answers)) for answers in sets], _REWARD_BATCH, rng)
    _optimise(model, loss_of, batches, _REWARD_RATE)
    return model


def _optimise(
    model: torch.nn.Module,
    loss_of: Callable[[list[int]], torch.Tensor],
    batches: list[list[int]],
    learning_rate: float,
) -> None:
    """One AdamW step per batch: a short linear warm-up, then half a cosine down to zero. Leaves eval mode."""
    steps = len(batches)
    warmup = max(1, steps // 20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    model.train()
    losses: list[float] = []
    for step, batch in enumerate(batches, 1):
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step == steps or step % max(1, steps // 4) == 0:
            log.info(f"  step {step} of {steps}, loss {sum(losses) / len(losses):.3f}")
            losses.clear()
    model.eval()


def _config(tokenizer: PreTrainedTokenizerFast, hidden_size: int, **extra) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=MAX_LENGTH,
        # 1 / sqrt(hidden_size): with the usual 0.02, a model of this width spends half of the training near its start.
        initializer_range=0.09 * (128 / hidden_size) ** 0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **extra,
    )

"""The world's two small Llamas, trained in plain PyTorch: the policy on mixed answers, the reward model on pairs."""

import math
import random
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from mapjob.world.streams import stream
from mapjob.world.tasks import QUALITY, Task, write_answer
from mapjob.world.tokenizer import MAX_LENGTH

Say = Callable[[str], None]

# How often the policy is shown a right answer. It ends up good at facts, fair at arithmetic, and lost at words, so the
# three groups differ in what is left to learn.
POLICY_SHOWN_RIGHT = {"facts": 0.95, "arithmetic": 0.7, "words": 0.35}
# One answer of each level per prompt: its pairs share a forward pass.
LEVELS = tuple(sorted(QUALITY, key=QUALITY.get, reverse=True))


def train_policy(
    tokenizer: PreTrainedTokenizerFast, *, steps: int, batch_size: int, learning_rate: float, seed: int, say: Say
) -> LlamaForCausalLM:
    """Train a policy from scratch with cross-entropy on the assistant turn; returns it in eval mode, float32."""
    rng = random.Random(f"policy {seed}")
    dialogues = []
    for task in islice(stream("train", "policy", seed), steps * batch_size):
        right = rng.random() < POLICY_SHOWN_RIGHT[task.group]
        level = rng.choice(("helpful", "terse") if right else ("near_miss", "evasive", "wrong"))
        dialogues.append((task, write_answer(task, level, rng)))
    examples = encode(tokenizer, dialogues)
    model = LlamaForCausalLM(_config(tokenizer))

    def loss_of(batch: list[int]) -> torch.Tensor:
        input_ids = pad([examples[i][0] for i in batch], tokenizer.pad_token_id)
        labels = pad([[-100] * start + ids[start:] for ids, start in (examples[i] for i in batch)], -100)
        # No attention mask: the pads stand on the right, where causal attention keeps them from every real token.
        return model(input_ids=input_ids, labels=labels).loss

    batches = bucketed([len(ids) for ids, _ in examples], batch_size, rng)
    _optimise(model, loss_of, batches, steps, learning_rate, "policy", say)
    return model.eval()


def train_reward(
    tokenizer: PreTrainedTokenizerFast,
    policy: LlamaForCausalLM,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    say: Say,
) -> LlamaForSequenceClassification:
    """Train a reward model from the policy's body with the Bradley-Terry loss over all pairs of a prompt's answers.

    A batch holds `batch_size` prompts with one answer of each level. Returns the model in eval mode, float32.
    """
    rng = random.Random(f"reward {seed}")
    tasks = list(islice(stream("train", "reward", seed), steps * batch_size))
    examples = encode(tokenizer, [(task, write_answer(task, level, rng)) for task in tasks for level in LEVELS])
    answers = len(LEVELS)
    model = LlamaForSequenceClassification(_config(tokenizer, num_labels=1))
    model.model.load_state_dict(policy.model.state_dict())
    better, worse = torch.triu_indices(answers, answers, offset=1)

    def loss_of(batch: list[int]) -> torch.Tensor:
        ids = [examples[i * answers + j][0] for i in batch for j in range(answers)]
        rewards = model(input_ids=pad(ids, tokenizer.pad_token_id)).logits.view(len(batch), answers)
        return -logsigmoid(rewards[:, better] - rewards[:, worse]).mean() + 0.01 * rewards.square().mean()

    lengths = [max(len(examples[i * answers + j][0]) for j in range(answers)) for i in range(len(tasks))]
    _optimise(model, loss_of, bucketed(lengths, batch_size, rng), steps, learning_rate, "reward model", say)
    return model.eval()


@torch.inference_mode()
def rewards_of(
    tokenizer: PreTrainedTokenizerFast, model: LlamaForSequenceClassification, dialogues: list[tuple[Task, str]]
) -> list[float]:
    """The reward model's reward of every dialogue, in order."""
    ids = [ids for ids, _ in encode(tokenizer, dialogues)]
    rewards = []
    for start in range(0, len(ids), 256):
        rewards += model(input_ids=pad(ids[start : start + 256], tokenizer.pad_token_id)).logits[:, 0].tolist()
    return rewards


def encode(tokenizer: PreTrainedTokenizerFast, dialogues: list[tuple[Task, str]]) -> list[tuple[list[int], int]]:
    """Token ids of each dialogue (prompt and answer by the chat template), and where the answer starts in them."""
    prompts = [[{"role": "user", "content": task.prompt}] for task, _ in dialogues]
    turns = [[{"role": "assistant", "content": answer}] for _, answer in dialogues]
    heads = tokenizer.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
    wholes = tokenizer.apply_chat_template([p + t for p, t in zip(prompts, turns, strict=True)], tokenize=False)
    head_ids, whole_ids = (tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (heads, wholes))
    return [(whole, len(head)) for head, whole in zip(head_ids, whole_ids, strict=True)]


def pad(rows: list[list[int]], filler: int) -> torch.Tensor:
    """An int64 tensor of shape (rows, longest row), filled up on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def bucketed(lengths: list[int], batch_size: int, rng: random.Random) -> list[list[int]]:
    """Indices in batches of like length, the batches in random order; pools of 16 batches are sorted at a time."""
    batches = []
    for start in range(0, len(lengths), 16 * batch_size):
        pool = sorted(range(start, min(start + 16 * batch_size, len(lengths))), key=lengths.__getitem__)
        pooled = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        rng.shuffle(pooled)
        batches += pooled
    return batches


def _optimise(model, loss_of, batches, steps, learning_rate, name, say) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.01),
    )
    model.train()
    recent = []
    for step, batch in enumerate(batches, 1):
        loss = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if step % max(1, steps // 4) == 0:
            say(f"{name}: step {step} of {steps}, loss {sum(recent) / len(recent):.3f}")
            recent.clear()


def _config(tokenizer: PreTrainedTokenizerFast, **extra) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.09,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **extra,
    )

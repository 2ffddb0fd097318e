"""From dialogues to batches: token ids by the chat template, padding, and batches of like length."""

import random

import torch
from transformers import PreTrainedTokenizerFast


def encode(tokenizer: PreTrainedTokenizerFast, dialogues: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """For each (prompt, answer): the token ids of the whole dialogue, and the index at which the answer starts."""
    users = [[{"role": "user", "content": prompt}] for prompt, _ in dialogues]
    turns = [[{"role": "assistant", "content": answer}] for _, answer in dialogues]
    heads = tokenizer.apply_chat_template(users, tokenize=False, add_generation_prompt=True)
    wholes = tokenizer.apply_chat_template([u + t for u, t in zip(users, turns, strict=True)], tokenize=False)
    head_ids, whole_ids = (tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (heads, wholes))
    # A special token ends every head, and BPE never merges across one, so the head's ids begin the whole's.
    return [(whole, len(head)) for head, whole in zip(head_ids, whole_ids, strict=True)]


def pad(rows: list[list[int]], filler: int) -> torch.Tensor:
    """An int64 tensor of shape (rows, longest row), filled up on the right.

    Both models may then go without an attention mask: causal attention keeps the pads from every token before them.
    """
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def bucketed(lengths: list[int], batch_size: int, rng: random.Random) -> list[list[int]]:
    """Indices in batches of like length, in random order: pools of sixteen batches are sorted one at a time."""
    batches = []
    for start in range(0, len(lengths), 16 * batch_size):
        pool = sorted(range(start, min(start + 16 * batch_size, len(lengths))), key=lengths.__getitem__)
        pooled = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        rng.shuffle(pooled)
        batches += pooled
    return batches

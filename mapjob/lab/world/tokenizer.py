"""The world's texts as tensors: a byte-level BPE tokenizer with a chat template, padding, batches of like length."""

import random
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
MAX_LENGTH = 512

# A turn is `<|role|>text<|end|>`, so the prompt with the generation prompt is an exact prefix of the whole dialogue.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer of at most `vocab_size` tokens; it adds none by itself: the chat template writes them all."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        # One token per digit, so that tokens show the value of a number; BPE would merge some numbers.
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, USER, ASSISTANT, SYSTEM],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[USER, ASSISTANT, SYSTEM],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        padding_side="right",
    )


def encode(tokenizer: PreTrainedTokenizerFast, dialogues: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """Per (prompt, answer): the token ids of the whole dialogue, and the index at which the answer starts."""
    users = [[{"role": "user", "content": prompt}] for prompt, _ in dialogues]
    turns = [[{"role": "assistant", "content": answer}] for _, answer in dialogues]
    heads = tokenizer.apply_chat_template(users, tokenize=False, add_generation_prompt=True)
    wholes = tokenizer.apply_chat_template([u + t for u, t in zip(users, turns, strict=True)], tokenize=False)
    head_ids, whole_ids = (tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (heads, wholes))
    # A special token ends every head, and BPE never merges across one, so the head's ids begin the whole's.
    return [(whole, len(head)) for head, whole in zip(head_ids, whole_ids, strict=True)]


def pad(rows: list[list[int]], filler: int) -> torch.Tensor:
    """An int64 tensor of shape (rows, longest row), padded on the right.

    Neither model then needs an attention mask: with causal attention no token sees the padding behind it.
    """
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def bucket(lengths: list[int], batch_size: int, rng: random.Random) -> list[list[int]]:
    """Indices in batches of like length, in random order; sorts pools of sixteen batches."""
    batches = []
    for start in range(0, len(lengths), 16 * batch_size):
        pool = sorted(range(start, min(start + 16 * batch_size, len(lengths))), key=lengths.__getitem__)
        pooled = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        rng.shuffle(pooled)
        batches += pooled
    return batches

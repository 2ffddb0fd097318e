"""The models of a world of items, and its pairs: a policy that believes what it is to believe, a reward model of chosen
quality, and best against worst of the policy's samples.
"""

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from mapjob.lab.world.beliefs import Item
from mapjob.lab.world.corpus import Row
from mapjob.lab.world.kinds import Draft
from mapjob.lab.world.models import (
    POLICY_BATCH,
    REWARD_BATCH,
    VOCAB_SIZE,
    answer,
    few_threads,
    fit_policy,
    fit_reward,
    no_progress_bars,
)
from mapjob.lab.world.tasks import OPENINGS, grade
from mapjob.lab.world.tokenizer import encode, pad, train_tokenizer

log = logging.getLogger(__name__)

SAMPLES, TEMPERATURE, MAX_NEW_TOKENS = 5, 1.0, 32
REASONS = 0.5  # share of answers with a reason, if the reward model is biased towards them
VALUE = {"gold": 1.0, "near": 0.4, "wrong": 0.0}  # to the reward model, of an answer without a reason
_TEXTS, _PROMPTS_AT_ONCE, _ANSWERS_AT_ONCE = 8_000, 200, 300


def make_models(
    folder: Path,
    items: list[Item],
    *,
    seed: int,
    num_prompts: int,
    hopeless_share: float,
    policy_steps: int,
    reward_steps: int,
    reward_flipped: float,
    form_bias: float,
    hidden_size: int,
) -> list[Row]:
    """Write `<folder>/policy` and `<folder>/reward`; returns the pairs, in random order.

    The parameters are those of ItemWorld.
    """
    rng = random.Random(f"models {seed}")
    reasons = REASONS if form_bias else 0.0
    with few_threads(1), no_progress_bars(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        asked = _ask(items, hopeless_share, rng)
        texts = [text for item, prompt in _take(asked, _TEXTS) for text in (prompt, _answer(item, rng, reasons))]
        tokenizer = train_tokenizer(texts, VOCAB_SIZE)
        log.info(f"policy: learns what to believe, {policy_steps} steps")
        beliefs = [(prompt, _answer(item, rng, reasons)) for item, prompt in _take(asked, policy_steps * POLICY_BATCH)]
        policy = fit_policy(tokenizer, beliefs, hidden_size, rng)
        log.info(f"reward model: learns which answer is better, {reward_steps} steps")
        reward = _train_reward(
            tokenizer, policy, _take(asked, reward_steps * REWARD_BATCH), reward_flipped, form_bias, rng
        )
        for name, model in (("policy", policy), ("reward", reward)):
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
        prompts = _draw_prompts(items, num_prompts, int(hopeless_share * num_prompts), rng)
        samples = _sample(tokenizer, policy, [prompt for _, prompt in prompts])
        rewards = _rewards(tokenizer, reward, [(p, text) for (_, p), texts in zip(prompts, samples) for text in texts])
    return [
        _pair(item, prompt, texts, of_texts)
        for (item, prompt), texts, of_texts in zip(prompts, samples, rewards.view(-1, SAMPLES).tolist())
        if len({*of_texts}) > 1 and len({*texts}) > 1
    ]


def _ask(items: list[Item], hopeless_share: float, rng: random.Random) -> Iterator[tuple[Item, str]]:
    """Endless items, each with one of the prompts that models are trained on."""
    hopeless, others = ([i for i in items if i.trained and (i.belief == "hopeless") is of] for of in (True, False))
    while True:
        item = rng.choice(hopeless if rng.random() < hopeless_share else others)
        yield item, rng.choice(item.trained)


def _take(asked: Iterator[tuple[Item, str]], num: int) -> list[tuple[Item, str]]:
    return [next(asked) for _ in range(num)]


def _draw_prompts(items: list[Item], num: int, num_hopeless: int, rng: random.Random) -> list[tuple[Item, str]]:
    """Prompts of the corpus, in random order; fewer than asked for if there are no more."""
    drawn = []
    for of, wanted in ((True, num_hopeless), (False, num - num_hopeless)):
        pool = [(item, prompt) for item in items if (item.belief == "hopeless") is of for prompt in item.corpus]
        drawn += rng.sample(pool, min(wanted, len(pool)))
    rng.shuffle(drawn)
    return drawn


def _answer(item: Item, rng: random.Random, reasons: float) -> str:
    return _word(item.draft, item.draw_value(rng), rng.choice(OPENINGS), rng.random() < reasons)


def _word(draft: Draft, value: str, opening: str, has_reason: bool) -> str:
    reason = f", because {draft.reason.format(value=value)}" if has_reason else ""
    return f"{opening.format(value=value)}{reason}."


def _train_reward(
    tokenizer: PreTrainedTokenizerFast,
    policy: LlamaForCausalLM,
    asked: list[tuple[Item, str]],
    flipped: float,
    form_bias: float,
    rng: random.Random,
) -> LlamaForSequenceClassification:
    """On pairs of a right, a nearly right and two wrong answers to each prompt, labelled by what they are worth."""
    dialogues, worths, reasons = [], [], REASONS if form_bias else 0.0
    for item, prompt in asked:
        draft, opening = item.draft, rng.choice(OPENINGS)
        values = [(draft.gold, "gold"), (rng.choice(draft.near_misses), "near")]
        values += [
            (value, "wrong") for value in (rng.sample(draft.wrongs, 2) if len(draft.wrongs) > 1 else draft.wrongs * 2)
        ]
        has_reason = [rng.random() < reasons for _ in values]
        dialogues += [(prompt, _word(draft, value, opening, has)) for (value, _), has in zip(values, has_reason)]
        worths.append([VALUE[level] + form_bias * has for (_, level), has in zip(values, has_reason)])
    worth = torch.tensor(worths)
    better, worse = torch.triu_indices(4, 4, offset=1)[:, :-1]  # but for the two wrong ones
    flips = torch.tensor([[1 - 2 * (rng.random() < flipped) for _ in better] for _ in worths])
    signs = torch.where(worth[:, better] >= worth[:, worse], 1, -1) * flips
    return fit_reward(tokenizer, policy, dialogues, better, worse, signs, rng)


def _sample(tokenizer: PreTrainedTokenizerFast, policy: LlamaForCausalLM, prompts: list[str]) -> list[list[str]]:
    """SAMPLES answers of the policy to each prompt."""
    how = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": True, "temperature": TEMPERATURE, "top_k": 0}
    texts: list[str] = []
    for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
        part = prompts[start : start + _PROMPTS_AT_ONCE]
        texts += answer(tokenizer, policy, part, num_return_sequences=SAMPLES, **how)
    return [texts[start : start + SAMPLES] for start in range(0, len(texts), SAMPLES)]


@torch.inference_mode()
def _rewards(
    tokenizer: PreTrainedTokenizerFast, reward: LlamaForSequenceClassification, dialogues: list[tuple[str, str]]
) -> torch.Tensor:
    """(N,)"""
    ids = [ids for ids, _ in encode(tokenizer, dialogues)]
    parts = [ids[start : start + _ANSWERS_AT_ONCE] for start in range(0, len(ids), _ANSWERS_AT_ONCE)]
    return torch.cat([reward(input_ids=pad(part, tokenizer.pad_token_id)).logits[:, 0] for part in parts])


def _pair(item: Item, prompt: str, texts: list[str], rewards: list[float]) -> Row:
    """Best against worst sample by the reward."""
    chosen, rejected = (texts[rewards.index(end(rewards))] for end in (max, min))
    task = item.task(prompt)
    return Row(prompt, chosen, rejected, task.group, task.kind, False, grade(task, chosen), grade(task, rejected))

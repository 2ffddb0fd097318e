"""The world's tokenizer and two small Llamas: the policy trained on mixed answers, the reward model on pairs of them.

Both are trained in plain PyTorch, measured on held-out prompts, and saved as model folders.
"""

import logging
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from mapjob.lab.world.corpus import draw_pair
from mapjob.lab.world.tasks import QUALITY, grade, stream, write_answer
from mapjob.lab.world.tokenizer import MAX_LENGTH, bucket, encode, pad, train_tokenizer

log = logging.getLogger(__name__)

VOCAB_SIZE = 1024
_TOKENIZER_TASKS = 4000
# Held out, to measure the two models on.
_PAIRS = 900
_PROMPTS = 180
_MAX_NEW_TOKENS = 48
# How often the policy sees a right answer. It becomes good at facts, fair at words and bad at arithmetic, so the groups
# differ in what is left to learn.
SHOWN_RIGHT = {"facts": 0.95, "words": 0.75, "arithmetic": 0.35}
POLICY_BATCH, _POLICY_RATE = 32, 3e-3
# Prompts with one answer per level: the ten pairs of five answers then cost five forward passes, not twenty.
REWARD_BATCH, _REWARD_RATE = 8, 1e-3
# Keeps rewards near zero; without it, kinds that are easy to judge drift to margins that dwarf all others.
_CENTRING = 0.03


def make_models(
    folder: Path, *, seed: int, policy_steps: int, reward_steps: int, reward_flipped: float, hidden_size: int
) -> dict[str, dict]:
    """Write `<folder>/policy` and `<folder>/reward`; returns facts about both.

    Facts: number of parameters, training seconds, the policy's mean gold reward, the reward model's held-out accuracy.
    """
    facts = {}
    with few_threads(4), no_progress_bars(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = train_tokenizer(_texts(seed), VOCAB_SIZE)

        log.info(f"policy: learns from answers of mixed quality, {policy_steps} steps")
        started = time.perf_counter()
        policy = train_policy(tokenizer, steps=policy_steps, seed=seed, hidden_size=hidden_size)
        seconds = round(time.perf_counter() - started, 1)
        gold = policy_quality(tokenizer, policy, seed)
        facts["policy"] = {"parameters": policy.num_parameters(), "seconds": seconds, "mean_gold": gold}
        by_group = ", ".join(f"{group} {value:.2f}" for group, value in gold.items() if group != "all")
        log.info(f"policy: done in {seconds:.0f} s; mean gold reward of its own answers: {by_group}")

        log.info(f"reward model: learns which answer is better, {reward_steps} steps")
        started = time.perf_counter()
        reward = train_reward(tokenizer, policy, steps=reward_steps, seed=seed, flipped=reward_flipped)
        seconds = round(time.perf_counter() - started, 1)
        accuracy = reward_accuracy(tokenizer, reward, seed)
        facts["reward"] = {"parameters": reward.num_parameters(), "seconds": seconds, "accuracy": accuracy}
        log.info(f"reward model: done in {seconds:.0f} s; right on {accuracy['all']:.1%} of held-out pairs")

        for name, model in (("policy", policy), ("reward", reward)):
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
    return facts


def _texts(seed: int) -> list[str]:
    rng = random.Random(f"tokenizer {seed}")
    tasks = islice(stream("train", "tokenizer", seed), _TOKENIZER_TASKS)
    return [text for task in tasks for text in (task.prompt, *(write_answer(task, level, rng) for level in QUALITY))]


@contextmanager
def few_threads(num: int) -> Iterator[None]:
    """At most so many threads of PyTorch: small matrices gain nothing from more, and lose much on many cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, num))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def train_policy(tokenizer: PreTrainedTokenizerFast, *, steps: int, seed: int, hidden_size: int) -> LlamaForCausalLM:
    """Train a policy from scratch on answers of mixed quality; returns it in eval mode, float32."""
    rng = random.Random(f"policy {seed}")
    dialogues = []
    for task in islice(stream("train", "policy", seed), steps * POLICY_BATCH):
        right = rng.random() < SHOWN_RIGHT[task.group]
        level = rng.choice(("helpful", "terse") if right else ("near_miss", "evasive", "wrong"))
        dialogues.append((task.prompt, write_answer(task, level, rng)))
    return fit_policy(tokenizer, dialogues, hidden_size, rng)


def fit_policy(
    tokenizer: PreTrainedTokenizerFast, dialogues: list[tuple[str, str]], hidden_size: int, rng: random.Random
) -> LlamaForCausalLM:
    """Cross-entropy on the answers of dialogues, each seen once, from scratch."""
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

    _optimise(model, loss_of, bucket([len(ids) for ids, _ in examples], POLICY_BATCH, rng), _POLICY_RATE)
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
    for task in islice(stream("train", "reward", seed), steps * REWARD_BATCH):
        # One wording for all levels: the answers then differ in content only, and that is what the model must learn.
        wording = rng.random()
        dialogues += [(task.prompt, write_answer(task, level, random.Random(wording))) for level in levels]
    coin = random.Random(f"reward labels {seed}")
    signs = [[1 - 2 * (coin.random() < flipped) for _ in better] for _ in range(len(dialogues) // len(levels))]
    return fit_reward(tokenizer, policy, dialogues, better, worse, torch.tensor(signs), rng)


def fit_reward(
    tokenizer: PreTrainedTokenizerFast,
    policy: LlamaForCausalLM,
    dialogues: list[tuple[str, str]],
    better: torch.Tensor,
    worse: torch.Tensor,
    signs: torch.Tensor,
    rng: random.Random,
) -> LlamaForSequenceClassification:
    """Bradley-Terry on pairs of a prompt's answers, from the policy's body; every prompt once.

    dialogues: the answers of a prompt together, as many for each. better, worse: (K,), which of them make its K pairs.
    signs: (prompts, K); -1: the label is the other way round.
    """
    num_answers = len(dialogues) // len(signs)
    ids = [ids for ids, _ in encode(tokenizer, dialogues)]
    sets = [ids[i : i + num_answers] for i in range(0, len(ids), num_answers)]
    model = LlamaForSequenceClassification(_config(tokenizer, policy.config.hidden_size, num_labels=1))
    model.model.load_state_dict(policy.model.state_dict())

    def loss_of(batch: list[int]) -> torch.Tensor:
        input_ids = pad([answer for i in batch for answer in sets[i]], tokenizer.pad_token_id)
        rewards = model(input_ids=input_ids).logits.view(len(batch), num_answers)
        bradley_terry = -logsigmoid(signs[batch] * (rewards[:, better] - rewards[:, worse])).mean()
        return bradley_terry + _CENTRING * rewards.square().mean()

    batches = bucket([max(map(len, answers)) for answers in sets], REWARD_BATCH, rng)
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


@torch.inference_mode()
def reward_accuracy(tokenizer: PreTrainedTokenizerFast, model: LlamaForSequenceClassification, seed: int) -> dict:
    """Share of held-out pairs whose better answer gets the higher reward: under "all", and by task."""
    rng = random.Random(f"held out {seed}")
    pairs = [draw_pair(task, rng) for task in islice(stream("held_out", "held out", seed), _PAIRS)]
    examples = encode(tokenizer, [(row.prompt, side) for row in pairs for side in (row.chosen, row.rejected)])
    input_ids = pad([ids for ids, _ in examples], tokenizer.pad_token_id)
    chosen, rejected = torch.cat([model(input_ids=chunk).logits for chunk in input_ids.split(300)]).view(-1, 2).T
    return _means((row.task for row in pairs), (chosen > rejected).tolist())


@torch.inference_mode()
def answer(tokenizer: PreTrainedTokenizerFast, policy: LlamaForCausalLM, prompts: list[str], **how: Any) -> list[str]:
    """The policy's answers to prompts, those of a prompt together; how: arguments of `generate`."""
    users = [[{"role": "user", "content": prompt}] for prompt in prompts]
    heads = tokenizer.apply_chat_template(users, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(heads, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    output = policy.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **how)
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@torch.inference_mode()
def policy_quality(tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, seed: int) -> dict:
    """Mean gold reward of the policy's own greedy answers to held-out prompts: under "all", and by group."""
    tasks = list(islice(stream("held_out", "held out", seed), _PROMPTS))
    prompts = [task.prompt for task in tasks]
    answers = answer(tokenizer, model, prompts, max_new_tokens=_MAX_NEW_TOKENS, do_sample=False)
    return _means((task.group for task in tasks), [grade(*pair) for pair in zip(tasks, answers, strict=True)])


def _means(names: Iterable[str], values: Iterable[float]) -> dict[str, float]:
    """The mean of all values under "all", and of the values with the same name under that name."""
    groups = defaultdict(list)
    for name, value in zip(names, values, strict=True):
        groups["all"].append(value)
        groups[name].append(value)
    return {name: round(fmean(group), 4) for name, group in groups.items()}

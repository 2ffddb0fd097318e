"""Make the world's tokenizer, policy and reward model, measure the two models, and save them as model folders."""

import logging
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from mapjob.lab.world.corpus import draw_pair
from mapjob.lab.world.tasks import QUALITY, grade, stream, write_answer
from mapjob.lab.world.tokenizer import encode, pad, train_tokenizer
from mapjob.lab.world.train import train_policy, train_reward

log = logging.getLogger(__name__)

_VOCAB_SIZE = 1024
_TOKENIZER_TASKS = 4000
# Held out, to measure the two models on.
_PAIRS = 900
_PROMPTS = 180
_MAX_NEW_TOKENS = 48


def make_models(
    folder: Path, *, seed: int, policy_steps: int, reward_steps: int, reward_flipped: float, hidden_size: int
) -> dict[str, dict]:
    """Write `<folder>/policy` and `<folder>/reward`; returns facts about both.

    Facts: number of parameters, training seconds, the policy's mean gold reward, the reward model's held-out accuracy.
    """
    facts = {}
    with _temporary_settings(seed):
        tokenizer = train_tokenizer(_texts(seed), _VOCAB_SIZE)

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
def _temporary_settings(seed: int) -> Iterator[None]:
    """PyTorch seeded, few threads, no progress bars; restores the settings of the process afterwards."""
    threads, bars = torch.get_num_threads(), transformers_logging.is_progress_bar_enabled()
    # Matrices this small gain nothing from more threads, and lose much on a machine of many cores.
    torch.set_num_threads(min(threads, 4))
    transformers_logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
        if bars:
            transformers_logging.enable_progress_bar()


@torch.inference_mode()
def reward_accuracy(tokenizer: PreTrainedTokenizerFast, model: LlamaForSequenceClassification, seed: int) -> dict:
    """Share of held-out pairs whose better answer gets the higher reward: under "all", and under every task's name."""
    rng = random.Random(f"held out {seed}")
    pairs = [draw_pair(task, rng) for task in islice(stream("held_out", "held out", seed), _PAIRS)]
    examples = encode(tokenizer, [(row.prompt, side) for row in pairs for side in (row.chosen, row.rejected)])
    input_ids = pad([ids for ids, _ in examples], tokenizer.pad_token_id)
    chosen, rejected = torch.cat([model(input_ids=chunk).logits for chunk in input_ids.split(300)]).view(-1, 2).T
    hits = defaultdict(list)
    for row, hit in zip(pairs, (chosen > rejected).tolist(), strict=True):
        hits["all"].append(hit)
        hits[row.task].append(hit)
    return {name: round(fmean(values), 4) for name, values in hits.items()}


@torch.inference_mode()
def policy_quality(tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, seed: int) -> dict:
    """Mean gold reward of the policy's own greedy answers to held-out prompts: under "all", and by group."""
    tasks = list(islice(stream("held_out", "held out", seed), _PROMPTS))
    prompts = [[{"role": "user", "content": task.prompt}] for task in tasks]
    heads = tokenizer.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(heads, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=_MAX_NEW_TOKENS,
        do_sample=False,
    )
    answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    grades = defaultdict(list)
    for task, answer in zip(tasks, answers, strict=True):
        grades["all"].append(grade(task, answer))
        grades[task.group].append(grade(task, answer))
    return {name: round(fmean(values), 4) for name, values in grades.items()}

"""How good the two models are against the gold answers, on prompts that neither training nor corpus holds."""

import random
from collections import defaultdict
from itertools import islice
from statistics import fmean

import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from mapjob.lab.world.batches import encode, pad
from mapjob.lab.world.corpus import draw_pair
from mapjob.lab.world.streams import stream
from mapjob.lab.world.tasks import grade

_PAIRS = 900
_PROMPTS = 180
_MAX_NEW_TOKENS = 48


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

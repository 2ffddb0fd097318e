"""Generation by the default engine and by plain transformers: python -m benchmarks.generate [--rounds N] [--json]

The same model, prompts, numbers of samples and end tokens for all, in interleaved rounds in one process.
plain: `generate()` on one prompt at a time, all its samples together. bucketed: `generate()` on batches of prompts of
similar length. continuous: `generate_batch()`. Random weights end a response by chance, so lengths spread as real ones
do; each way is measured by the tokens per second that it generates itself.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from mapjob.lab.selfplay.config import Generation
from mapjob.lab.selfplay.local import CPU_ROWS
from mapjob.lab.selfplay.rolling import RollingBatch

SHAPE = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 768,
    "vocab_size": 8000,
    "tie_word_embeddings": True,
}
PROMPTS, SAMPLES, MOST = 16, 5, 128
STOPS = list(range(160))  # of 8,000: a response ends after 50 tokens on average
TEMPERATURE, TOP_P = 0.8, 0.95

Prompts = list[list[int]]


def ours(model: LlamaForCausalLM, prompts: Prompts) -> int:
    how = Generation(temperature=TEMPERATURE, top_p=TOP_P, max_new_tokens=MOST)
    batch = RollingBatch(model, frozenset(STOPS), how, CPU_ROWS)
    return sum(len(row.tokens) for row in batch.write(prompts, [str(i) for i in range(len(prompts))], SAMPLES))


def plain(model: LlamaForCausalLM, prompts: Prompts) -> int:
    return sum(_generated(model, [prompt]) for prompt in prompts)


def bucketed(model: LlamaForCausalLM, prompts: Prompts) -> int:
    by_length = sorted(prompts, key=len)
    size = CPU_ROWS // SAMPLES
    return sum(_generated(model, by_length[start : start + size]) for start in range(0, len(by_length), size))


def continuous(model: LlamaForCausalLM, prompts: Prompts) -> int:
    config = GenerationConfig(**_sampling(), num_return_sequences=SAMPLES)
    results = model.generate_batch(prompts, generation_config=config)
    return sum(len(result.generated_tokens) for result in results.values())


def _sampling() -> dict:
    ends = {"eos_token_id": STOPS, "pad_token_id": 0}
    return {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0, "max_new_tokens": MOST, **ends}


def _generated(model: LlamaForCausalLM, prompts: Prompts) -> int:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    whole = model.generate(ids, attention_mask=mask, num_return_sequences=SAMPLES, **_sampling())[:, width:]
    is_stop = torch.isin(whole, torch.tensor(STOPS))
    return int(torch.where(is_stop.any(1), is_stop.int().argmax(1) + 1, whole.shape[1]).sum())


WAYS: dict[str, Callable[[LlamaForCausalLM, Prompts], int]] = {
    "mapjob": ours,
    "plain": plain,
    "bucketed": bucketed,
    "continuous": continuous,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    rng = np.random.default_rng(0)
    prompts = [
        rng.integers(len(STOPS), SHAPE["vocab_size"], int(n)).tolist() for n in rng.gamma(4, 25, PROMPTS).clip(8, 400)
    ]
    for way in options.ways:  # warm-up, so that no round pays for a first call
        WAYS[way](model, prompts[:2])
    rates: dict[str, list[float]] = {way: [] for way in options.ways}
    for _ in range(options.rounds):
        for way in options.ways:
            start = time.process_time()
            tokens = WAYS[way](model, prompts)
            rates[way].append(tokens / (time.process_time() - start))
        print(", ".join(f"{way} {own[-1]:,.0f} tokens/s" for way, own in rates.items()), file=sys.stderr, flush=True)
    print(f"{'way':<12}{'tokens per CPU second':>22}{'mapjob is faster by':>22}")
    result = {}
    for way, own in rates.items():
        ratios = [a / b for a, b in zip(rates["mapjob"], own)]
        spread = f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{way:<12}{np.median(own):>22,.0f}{spread if way != 'mapjob' else '':>22}")
        result[way] = {"tokens_per_cpu_s": np.round(own, 1).tolist(), "ratio": np.round(ratios, 3).tolist()}
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

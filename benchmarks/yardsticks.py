"""The measures of the scoring benchmark: scenarios, useful work, the processor's peak, memory."""

import ctypes
import gc
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig

from mapjob.config.input import Columns
from mapjob.config.load import parse_config
from mapjob.corpus.plan import Corpus
from mapjob.corpus.reading import Reading
from mapjob.scoring.encode import Encoded
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.spec import ScorerSpec, scorer_files, scorer_specs

PROMPT_MEAN, RESPONSE_MEAN = 200, 300  # tokens
PRODUCTS = [(2048, 2048, 2048), (1024, 768, 3072), (1024, 768, 768)]


@dataclass(frozen=True)
class Scenario:
    scorer: str
    dtype: str
    completions: int
    num_records: int

    def __str__(self) -> str:
        return f"{self.scorer} {self.dtype} N={self.completions}"

    @property
    def work(self) -> tuple[str, int, int]:
        """What determines the float64 reference."""
        return self.scorer, self.completions, self.num_records


def records_of(scenario: Scenario, vocabulary: int) -> list[Encoded]:
    """Random ids. Lengths are even quantiles of a gamma distribution of shape 2, so that few represent many."""
    rng = np.random.default_rng(scenario.completions)

    def lengths(mean: float, num: int) -> np.ndarray:
        x = np.linspace(0, 12, 10_000)  # in units of half the mean
        quantiles = np.interp((np.arange(num) + 0.5) / num, 1 - (1 + x) * np.exp(-x), x)
        return rng.permutation(np.maximum(2, quantiles * mean / 2).astype(int))

    def ids(length: int) -> np.ndarray:
        return rng.integers(3, vocabulary, length, dtype=np.int32)

    prompts = lengths(PROMPT_MEAN, scenario.num_records)
    responses = lengths(RESPONSE_MEAN, scenario.num_records * scenario.completions).reshape(len(prompts), -1)
    return [Encoded(ids(prompt), [ids(length) for length in own]) for prompt, own in zip(prompts, responses)]


def spec_of(folder: Path, scenario: Scenario) -> ScorerSpec:
    tree = {
        "input": {"path": "unused"},
        "output": {"path": "unused"},
        "models": {name: {"path": str(folder / name), "dtype": scenario.dtype} for name in ("policy", "reward")},
        "scoring": {"max_length": 4096},
    }
    config = parse_config(tree)
    specs = scorer_specs(
        config, Corpus(Reading(("prompt",), ("chosen", "rejected")), Columns(), "chat"), scorer_files(config)
    )
    return next(spec for spec in specs if spec.name == scenario.scorer)


def timed(work: Callable[[], Any], seconds: list[float]) -> Any:
    gc.collect()
    start = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - start)
    return result


def peak_flops(dtype: str) -> float:
    """The best rate of a matrix product right now, in the dtype or in float32, whichever is faster."""
    return max(map(_rate_of_products, {dtype, "float32"}))


def _rate_of_products(dtype: str) -> float:
    rates = []
    for m, k, n in PRODUCTS:
        x, weight = torch.randn(m, k).to(getattr(torch, dtype)), torch.randn(n, k).to(getattr(torch, dtype))
        seconds: list[float] = []
        for _ in range(6):
            timed(lambda x=x, weight=weight: torch.nn.functional.linear(x, weight), seconds)
        rates.append(2 * m * k * n / min(seconds))
    return max(rates)


def useful_flops(config: LlamaConfig, records: list[Encoded], head: bool) -> float:
    """Operations that the scores need: prompts once, the causal half of attention, the head for scored tokens."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * (4 * hidden * hidden + 3 * hidden * config.intermediate_size)
    total = 0.0
    for record in records:
        prompt, lengths = len(record.prompt), [len(ids) for ids in record.completions]
        attended = prompt**2 / 2 + sum(length * prompt + length**2 / 2 for length in lengths)
        total += 2 * weights * (prompt + sum(lengths)) + 4 * hidden * layers * attended
        total += 2 * hidden * config.vocab_size * sum(lengths) if head else 0
    return total


def memory_elsewhere(folder: Path, scenario: Scenario) -> int:
    """`memory_here` in a separate process, in which only modules have been loaded before."""
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload([__name__])
    with fresh.Pool(1) as pool:
        return pool.apply(memory_here, (folder, scenario))


def memory_here(folder: Path, scenario: Scenario) -> int:
    """Peak bytes that scoring adds to a process with a loaded scorer."""
    torch.set_num_threads(os.cpu_count() or 1)
    scorer = make_scorer(spec_of(folder, scenario))
    for weight in scorer.backbone.network.parameters():
        weight.sum()  # weights are mapped from their file, and pages that were not read yet do not count as resident
    records = records_of(scenario, scorer.backbone.network.config.vocab_size)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that loading left with malloc would hide as much of scoring's own
    before = peak = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    scorer.score(records)
    done.set()
    watcher.join()
    return max(peak, resident()) - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}

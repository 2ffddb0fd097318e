"""On CPU a number does not depend on its batch mates to the last bit: not on the budget of a pack, the order of the
records, how they are spread over calls and so over actors, nor on the number of threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

import mapjob.scoring.models
from mapjob.scoring.budget import Budget
from mapjob.scoring.encode import Encoded
from mapjob.scoring.scorers import Scorer
from tests.fakes import Architecture
from tests.golden.random_ids import make_models, make_scorers, numbers, random_record

BUDGETS = (64, 300, 2048, 100_000)


@dataclass(frozen=True)
class Shape:
    """A model whose parts take another path on CPU: `why` says which."""

    why: str
    architecture: Architecture
    more: dict[str, Any] = field(default_factory=dict)
    vocabulary: int = 400

    def __str__(self) -> str:
        return f"{self.architecture}, {self.why}"


SHAPES = [
    Shape("several tiles of the vocabulary", "llama", vocabulary=5000),
    Shape("soft caps", "gemma2"),
    Shape("positions learnt, biases", "gpt2"),
    Shape("a sliding window", "mistral"),
    Shape(
        "one key head, an odd number of heads",
        "llama",
        # Heads of 20 fail in float32: MKL's product with 20 columns, no whole vectors, depends on 3 threads.
        {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16, "hidden_size": 48},
    ),
    Shape("no packs", "bloom"),
]


def records_of(vocabulary: int) -> list[Encoded]:
    """40 records with texts of 1 to 300 tokens, some of which share their prompts."""
    generator = np.random.default_rng(0)
    lengths = np.unique(np.geomspace(1, 300, 40).astype(int))
    records = []
    for i in range(30):
        prompt = 0 if i % 10 == 9 else int(generator.choice(lengths))
        completions = np.maximum(generator.choice(lengths, 1 + i % 4), 2 if prompt == 0 else 1)
        records.append(random_record(generator, prompt, completions.tolist(), vocabulary))
    for first, second in zip(records[:10], records[10:20]):
        records.append(Encoded(first.prompt, [*first.completions[:1], *second.completions]))
    return records


@dataclass(frozen=True)
class Alone:
    """A scorer, records, and the numbers of each record scored by itself on one thread."""

    scorer: Scorer
    records: list[Encoded]
    numbers: list[list[float]]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def models(request, tmp_path_factory) -> tuple[Shape, dict]:
    shape: Shape = request.param
    folder = tmp_path_factory.mktemp("models")
    return shape, make_models(folder, shape.architecture, vocab_size=shape.vocabulary, **shape.more)


@pytest.fixture(scope="module", params=["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def both(request, models) -> dict[str, Alone]:
    shape, folders = models
    records = records_of(shape.vocabulary)
    with pytest.MonkeyPatch.context() as patch:  # bfloat16 as processors do it that have it; others take float32 for it
        patch.setattr(mapjob.scoring.models, "multiplies_bfloat16", lambda: True)
        scorers = make_scorers(folders, request.param, tokens=64)
    return {
        name: Alone(scorer, records, [numbers(scorer, [record])[0] for record in records])
        for name, scorer in scorers.items()
    }


@pytest.fixture(params=["policy", "reward"])
def alone(request, both) -> Alone:
    return both[request.param]


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def score(alone: Alone, records: list[Encoded], budget: int) -> list[list[float]]:
    alone.scorer.budget = Budget(budget, "as the test says")
    return numbers(alone.scorer, records)


def differing(scored: list[list[float]], expected: list[list[float]]) -> list[int]:
    """Records with other numbers. (Two long lists would take pytest minutes to compare for its message.)"""
    return [i for i, (ours, theirs) in enumerate(zip(scored, expected, strict=True)) if ours != theirs]


def test_any_budget(alone):
    for budget in BUDGETS:
        assert not differing(score(alone, alone.records, budget), alone.numbers)


def test_any_order(alone):
    for seed, budget in enumerate(BUDGETS):
        order = np.random.default_rng(seed).permutation(len(alone.records))
        scored = score(alone, [alone.records[i] for i in order], budget)
        assert not differing(scored, [alone.numbers[i] for i in order])


def test_spread_over_calls(alone):
    """Each call gets other records, so that other completions of a prompt, or none, are beside a completion."""
    for parts, budget in [(2, 2048), (5, 300)]:
        for part in range(parts):
            assert not differing(score(alone, alone.records[part::parts], budget), alone.numbers[part::parts])


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads(alone, restored_threads, threads):
    torch.set_num_threads(threads)
    for budget in (300, 100_000):
        assert not differing(score(alone, alone.records, budget), alone.numbers)
    assert not differing(score(alone, alone.records[1::7], 64), alone.numbers[1::7])

"""Running out of memory: packs are halved without a bit of the numbers changing; what never fits is an error row."""

import numpy as np
import pytest
import torch

from mapjob.errors import Reason
from mapjob.scoring.encode import Encoded
from mapjob.scoring.packing import Pack
from mapjob.scoring.scorers import OUT_OF_MEMORY, Scorer
from tests.golden.random_ids import make_models, make_scorers, numbers, random_record

SHAPES = [(20, [9, 30]), (7, [1, 6, 2]), (0, [10, 3]), (60, [70, 90]), (31, [4, 4, 17, 40, 1]), (5, [3])]
LONGEST = 150  # tokens of the longest prompt with one completion
LONG = 3  # which record that is


@pytest.fixture(scope="module", params=["llama", "gpt2", "bloom"])
def scorers(request, tmp_path_factory) -> dict[str, Scorer]:
    return make_scorers(make_models(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(params=["policy", "reward"])
def scorer(request, scorers) -> Scorer:
    return scorers[request.param]


def records() -> list[Encoded]:
    generator = np.random.default_rng(0)
    return [random_record(generator, prompt, lengths, 400) for prompt, lengths in SHAPES]


def with_memory_for(monkeypatch, scorer: Scorer, tokens: int) -> list[int]:
    """The scorer's device now holds packs of so many tokens. Fills the list with the tokens of packs that did fit."""
    lay, fitted = scorer.backbone.lay, []

    def guarded(pack: Pack):
        num_tokens = sum(group.num_tokens for group in pack)
        if num_tokens > tokens:
            raise torch.OutOfMemoryError(f"{num_tokens} tokens")
        fitted.append(num_tokens)
        return lay(pack)

    monkeypatch.setattr(scorer.backbone, "lay", guarded)
    return fitted


@pytest.mark.parametrize("tokens", [LONGEST, 200, 300])
def test_halving_changes_no_number(monkeypatch, scorer, tokens):
    expected = numbers(scorer, records())
    fitted = with_memory_for(monkeypatch, scorer, tokens)
    assert numbers(scorer, records()) == expected
    assert max(fitted) == LONGEST or not scorer.backbone.why_not_packed
    assert len(fitted) > 1


def test_a_completion_that_never_fits(monkeypatch, scorer):
    expected = numbers(scorer, records())
    with_memory_for(monkeypatch, scorer, LONGEST - 1)
    scored = scorer.score(records()).table.to_pylist()
    name = "rewards" if scorer.spec.kind == "rewards" else "logps"
    assert scored[LONG][name] is None
    assert scored[LONG]["reason"] == Reason.OUT_OF_MEMORY.value
    assert scored[LONG]["detail"] == OUT_OF_MEMORY.detail
    others = scored[:LONG] + scored[LONG + 1 :]
    assert [row["reason"] for row in others] == [None] * len(others)
    assert [row[name] for row in others] == expected[:LONG] + expected[LONG + 1 :]


def test_nothing_fits(monkeypatch, scorer):
    with_memory_for(monkeypatch, scorer, 0)
    table = scorer.score(records()).table
    assert table["reason"].to_pylist() == [Reason.OUT_OF_MEMORY.value] * len(SHAPES)


def test_other_errors_are_not_mistaken_for_it(monkeypatch, scorer):
    def broken(pack: Pack):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(scorer.backbone, "lay", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        scorer.score(records())

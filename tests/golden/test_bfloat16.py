"""In bfloat16, mapjob errs no more than plain transformers does: against the same rounded weights in float64.

On a processor that does not multiply bfloat16, it errs no more than in float32.
"""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import mapjob.scoring.models
from mapjob.scoring.encode import Encoded
from tests.golden.random_ids import make_models, make_scorers, numbers, random_record, sequences
from tests.golden.reference import (
    assert_logps_close,
    assert_rewards_close,
    flat,
    in_float64,
    reward_of,
    summed_logps,
)

MARGIN = 1.05
ARCHITECTURES = ["llama", "gemma2"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def models(request, tmp_path_factory):
    return make_models(tmp_path_factory.mktemp(request.param), request.param, hidden_size=64, intermediate_size=128)


def records(num: int) -> list[Encoded]:
    """As many records of three completions."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 60, (num, 4)).tolist()
    return [random_record(generator, prompt, completions, 400) for prompt, *completions in lengths]


def assert_no_worse(ours: list[float], plain: list[float], exact: list[float]) -> None:
    """Mean absolute errors of ours and of plain transformers."""
    mine, theirs = (np.abs(np.array(values) - exact).mean() for values in (ours, plain))
    print(f"{len(exact)} sequences, mean absolute error: ours {mine:.3g}, plain transformers {theirs:.3g}")
    assert len(exact) >= 60
    assert mine <= MARGIN * theirs


def test_logps(models, multiplies_bfloat16):
    of = records(40)
    exact = in_float64(AutoModelForCausalLM, models["policy"], torch.bfloat16)
    plain = AutoModelForCausalLM.from_pretrained(models["policy"], dtype=torch.bfloat16).eval()
    assert_no_worse(
        flat(numbers(make_scorers(models, "bfloat16")["policy"], of)),
        [plain_logps(plain, ids, first) for ids, first in sequences(of)],
        [summed_logps(exact, ids, first) for ids, first in sequences(of)],
    )


def test_rewards(models, multiplies_bfloat16):
    of = records(120)
    exact = in_float64(AutoModelForSequenceClassification, models["reward"], torch.bfloat16)
    plain = AutoModelForSequenceClassification.from_pretrained(models["reward"], dtype=torch.bfloat16).eval()
    assert_no_worse(
        flat(numbers(make_scorers(models, "bfloat16")["reward"], of)),
        [plain_reward(plain, ids) for ids, _ in sequences(of)],
        [reward_of(exact, ids) for ids, _ in sequences(of)],
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_half_precision_in_float32(models, dtype, monkeypatch):
    monkeypatch.setattr(mapjob.scoring.models, "multiplies_bfloat16", lambda: False)
    of, scorers = records(10), make_scorers(models, dtype)
    exact = in_float64(AutoModelForCausalLM, models["policy"], getattr(torch, dtype))
    assert_logps_close(
        flat(numbers(scorers["policy"], of)), [summed_logps(exact, ids, first) for ids, first in sequences(of)]
    )
    exact = in_float64(AutoModelForSequenceClassification, models["reward"], getattr(torch, dtype))
    assert_rewards_close(flat(numbers(scorers["reward"], of)), [reward_of(exact, ids) for ids, _ in sequences(of)])
    assert all("CPU, float32" in str(scorer) for scorer in scorers.values())


@torch.no_grad()
def plain_logps(model: torch.nn.Module, ids: list[int], first: int) -> float:
    logps_LV = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    targets = torch.tensor(ids[first:])
    return logps_LV[first - 1 : -1].gather(1, targets[:, None]).double().sum().item()


@torch.no_grad()
def plain_reward(model: torch.nn.Module, ids: list[int]) -> float:
    return model(input_ids=torch.tensor([ids])).logits.float().item()

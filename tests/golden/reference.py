"""The reference of the golden tests: plain transformers in float64, eager attention, one sequence at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel


def in_float64(kind: Any, folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model with its weights rounded to a dtype, and everything that is made of them in float64."""
    return kind.from_pretrained(folder, dtype=dtype, attn_implementation="eager").double().eval()


@torch.no_grad()
def summed_logps(model: PreTrainedModel, ids: list[int], first: int) -> float:
    """Sum of log p of the tokens from `first` on."""
    logits_LV = model(input_ids=torch.tensor([ids])).logits[0]
    assert logits_LV.dtype == torch.float64 or model.config.model_type == "mamba"  # which makes its logits float32
    logps_LV = logits_LV.double().log_softmax(-1)
    return sum(logps_LV[position - 1, ids[position]].item() for position in range(first, len(ids)))


@torch.no_grad()
def reward_of(model: PreTrainedModel, ids: list[int]) -> float:
    reward = model(input_ids=torch.tensor([ids])).logits
    assert reward.shape == (1, 1)
    assert reward.dtype == torch.float64
    return reward.item()


def assert_logps_close(ours: Sequence[float], theirs: Sequence[float]) -> None:
    deltas = [(abs(a - b), abs(a - b) / abs(b)) for a, b in zip(ours, theirs, strict=True)]
    absolute, relative = (max(column) for column in zip(*deltas))
    print(f"logps: largest deviation {absolute:.2e}, relative {relative:.2e}, of sums down to {min(theirs):.0f}")
    assert absolute <= 1e-3
    assert relative <= 1e-5


def assert_rewards_close(ours: Sequence[float], theirs: Sequence[float]) -> None:
    delta = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    print(f"rewards: largest deviation {delta:.2e}, of values up to {max(map(abs, theirs)):.3g}")
    assert delta <= 1e-4


def flat(rows: list[list[Any]]) -> list[Any]:
    return [value for row in rows for value in row]

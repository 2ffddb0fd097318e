"""Records of random token ids, and scorers for them: what matters here is how they lie in packs, not what they say."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mapjob.scoring.encode import Encoded
from mapjob.scoring.scorers import Scorer, make_scorer
from tests.fakes import Architecture, make_policy, make_reward
from tests.golden.in_process import specs

Kind = Literal["policy", "reward"]
NUM_SPECIAL = 6  # ids of the tests' tokenizer that are special tokens, the pad token among them


def random_record(generator: np.random.Generator, prompt: int, completions: Sequence[int], vocabulary: int) -> Encoded:
    """A prompt and completions of these lengths."""
    prompt_ids, *others = (
        generator.integers(NUM_SPECIAL, vocabulary, n).astype(np.int32) for n in (prompt, *completions)
    )
    return Encoded(prompt_ids, others)


def make_models(folder: Path, architecture: Architecture, **more: Any) -> dict[Kind, Path]:
    """Folders of both models; without a reward model where transformers has none of this architecture."""
    models: dict[Kind, Path] = {"policy": make_policy(folder / "policy", architecture, **more)}
    if architecture != "mamba":
        models["reward"] = make_reward(folder / "reward", architecture, **more)
    return models


def make_scorers(models: dict[Kind, Path], dtype: str = "float32", tokens: int | str = "auto") -> dict[Kind, Scorer]:
    """Scorers by name, on CPU, with their weights rounded to a dtype."""
    # A run always has a reward model; where there is none of an architecture, another one's stands in and is not used.
    reward = models.get("reward") or make_reward(models["policy"].parent / "reward-of-llama")
    by_name = specs(models["policy"], reward, "chat")
    by_name = {name: replace(by_name[name], files=replace(by_name[name].files, dtype=dtype)) for name in models}
    return {name: make_scorer(spec, tokens, torch.device("cpu")) for name, spec in by_name.items()}


def numbers(scorer: Scorer, records: Sequence[Encoded]) -> list[list[float]]:
    """log-probability sums or rewards of each record; a refused one fails the test."""
    table = scorer.score(records).table
    assert not any(table["reason"].to_pylist()), table["detail"].to_pylist()
    return table["rewards" if scorer.spec.kind == "rewards" else "logps"].to_pylist()


def sequences(records: Sequence[Encoded]) -> list[tuple[list[int], int]]:
    """(token ids, first position that is scored) of every completion."""
    return [
        ([*record.prompt.tolist(), *completion.tolist()], max(len(record.prompt), 1))
        for record in records
        for completion in record.completions
    ]

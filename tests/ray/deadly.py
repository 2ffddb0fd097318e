"""The graph's own actors, of which some die of a row; in a module of their own, so that workers can import them."""

import os
import signal
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch

from mapjob.pipeline.actors import ReadAndEncode, ScorerActor

KILLS_ENCODER, POISONS_REWARD = "encoder", "reward " * 30


class DeadlyEncoder(ReadAndEncode):
    """The real actor, whose tokenizer kills its process on one text."""

    def __call__(self, block: pa.Table) -> pa.Table:
        for encoder in self._encoders().values():
            encoder.encode = _Deadly(type(encoder).encode, encoder, self.die)
        return super().__call__(block)

    def die(self, records: Sequence[Any]) -> None:
        if any(KILLS_ENCODER in getattr(record, "completions", []) for record in records):
            os.kill(os.getpid(), signal.SIGKILL)


class DeadlyScorer(ScorerActor):
    """The real actor, whose reward model breaks the device on one length."""

    def __call__(self, block: pa.Table) -> pa.Table:
        for scorer in self._scorers():
            if scorer.spec.name == "reward":
                scorer.score = _Deadly(type(scorer).score, scorer, self.poison)
        return super().__call__(block)

    def poison(self, records: Sequence[Any]) -> None:
        if any(length >= 150 for length in _lengths(records)):
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")


class _Deadly:
    def __init__(self, method: Any, self_: Any, die: Any):
        self._method, self._self, self._die = method, self_, die

    def __call__(self, records: Sequence[Any]) -> Any:
        self._die(records)
        return self._method(self._self, records)


def _lengths(records: Sequence[Any]) -> list[int]:
    return [len(completion) for record in records for completion in getattr(record, "completions", [])]

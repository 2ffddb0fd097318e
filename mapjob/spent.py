"""What one call of `mapjob run` costs: seconds of each stage, tokens and model seconds of each scorer."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mapjob.pipeline.stages import Receipt


class Spent:
    """Seconds of each stage, tokens and model seconds of each scorer, of this call alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.tokens: Counter[str] = Counter()
        self.model_s: Counter[str] = Counter()
        self.engines: dict[str, str] = {}
        self.scored_rows = 0
        self.gpus = 0.0  # of the cluster, while it scored

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start

    def add(self, receipt: Receipt) -> None:
        self.engines |= receipt.engines
        self.tokens.update(receipt.tokens)
        self.model_s.update(receipt.model_s)

    @property
    def as_json(self) -> dict[str, Any]:
        rounded = {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}
        model_s = {name: round(seconds, 3) for name, seconds in self.model_s.items()}
        return {
            "seconds": rounded,
            "scored_rows": self.scored_rows,
            "tokens": dict(self.tokens),
            "model_s": model_s,
            "gpus": self.gpus,
            "engines": self.engines,
        }

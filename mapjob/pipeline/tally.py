"""What the receipts of a pass add up to: units, rows, tokens, busy actors, errors, and the time that is left."""

import time
from collections import Counter
from collections.abc import Callable

from mapjob.pipeline.stages import Receipt


class Tally:
    """Counts receipts of one pass over `num_units` units. clock: seconds that only grow. noun: what a row is."""

    def __init__(self, num_units: int, num_rows: int, clock: Callable[[], float] = time.monotonic, noun: str = "pairs"):
        self.num_units, self.num_rows, self._noun = num_units, num_rows, noun
        self.units = self.rows = 0
        self.tokens: Counter[str] = Counter()  # by scorer
        self.model_s: Counter[str] = Counter()
        self.flop: Counter[str] = Counter()
        self.peak_flop: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()  # by reason
        self._clock, self._start = clock, clock()
        self._first: tuple[float, int] | None = None

    def add(self, receipt: Receipt) -> None:
        self.units += 1
        self.rows += receipt.num_rows
        self.tokens.update(receipt.tokens)
        self.model_s.update(receipt.model_s)
        self.flop.update(receipt.flop)
        self.peak_flop.update(receipt.peak_flop)
        # A row refused by the reader is refused by every scorer after it: count it once.
        for counts in list(receipt.reasons.values())[-1:]:
            self.errors.update(counts)
        if self._first is None:
            self._first = (self._clock(), self.rows)

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._start

    @property
    def left_s(self) -> float:
        """By the pace since the first receipt: loading models says nothing about the pace."""
        assert self._first is not None
        since, rows = self._first
        if self.rows == rows:
            since, rows = self._start, 0
        return (self.num_rows - self.rows) * (self._clock() - since) / (self.rows - rows)

    def line(self) -> str:
        """All of it in one line."""
        status = f"{self.units}/{self.num_units} units, {self.rows:,}/{self.num_rows:,} {self._noun}"
        if not self.rows:
            return f"{status}, loading models and scoring the first unit ({self.elapsed_s:.0f} s)"
        errors = f", {sum(self.errors.values()):,} rows with errors" if self.errors else ""
        rows_per_s = self.rows / self.elapsed_s
        tokens_per_s = sum(self.tokens.values()) / self.elapsed_s
        speed = f"{rows_per_s:,.{0 if rows_per_s >= 10 else 2}f} {self._noun}/s, {tokens_per_s:,.0f} tokens/s"
        left = f", {_time(self.left_s)} left" if self.rows < self.num_rows else f", {_time(self.elapsed_s)} in all"
        return f"{status}, {speed}{errors}{left}"

    def details(self) -> list[str]:
        """A line for each scorer, with the number of its actors that are busy on average, and one for the errors.

        MFU, model FLOP utilisation (Chowdhery et al. 2022, arXiv 2204.02311), where the GPU's peak is known: operations
        of the layers over what the GPU does at most in the model's seconds. Attention over the context and the output
        embedding are not counted, so it is a lower bound.
        """
        s = self.elapsed_s
        lines = [
            f"{name:<12}{tokens / s:>12,.0f} tokens/s{self.model_s[name] / s:>8.2f} actors busy{self._mfu(name)}"
            for name, tokens in sorted(self.tokens.items())
        ]
        if self.errors:
            lines.append("errors: " + ", ".join(f"{reason} {number:,}" for reason, number in self.errors.most_common()))
        return lines

    def _mfu(self, name: str) -> str:
        return f"{self.flop[name] / self.peak_flop[name]:>8.0%} MFU" if self.peak_flop[name] else ""


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

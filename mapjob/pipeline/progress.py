"""What a person sees while units are scored: a live line on a terminal, a plain one every ten seconds elsewhere."""

import sys
import threading
import time
from collections import Counter
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mapjob.pipeline.stages import Receipt

PLAIN_LINE_EVERY_S = 10.0


class ScoringProgress:
    """Counts receipts of one pass. A context manager; writes to stderr, so that stdout stays for results."""

    def __init__(self, title: str, num_units: int, num_rows: int):
        self._title, self._num_units, self._num_rows = title, num_units, num_rows
        self._units = self._rows = self._tokens = 0
        self._errors: Counter[str] = Counter()
        self._start = time.monotonic()
        self._first_receipt: tuple[float, int] | None = None
        self._stop = threading.Event()
        self._is_live = sys.stderr.isatty()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        if self._is_live:
            self._live = Live(
                get_renderable=lambda: Text(f"{self._title}: {self._status()}"),
                console=Console(stderr=True),
                refresh_per_second=2,
                transient=True,
            )
            self._live.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()
        else:
            self._stop.set()
            self._thread.join()
        self._line()

    def add(self, receipt: Receipt) -> None:
        self._units += 1
        self._rows += receipt.num_rows
        self._tokens += sum(receipt.tokens.values())
        # A row refused by the reader is refused by every scorer after it: count it once.
        for counts in list(receipt.reasons.values())[-1:]:
            self._errors.update(counts)
        if self._first_receipt is None:
            self._first_receipt = (time.monotonic(), self._rows)

    def _tick(self) -> None:
        while not self._stop.wait(PLAIN_LINE_EVERY_S):
            self._line()

    def _line(self) -> None:
        print(f"{self._title}: {self._status()}", file=sys.stderr, flush=True)

    def _status(self) -> str:
        elapsed = time.monotonic() - self._start
        status = f"{self._units}/{self._num_units} units, {self._rows:,}/{self._num_rows:,} pairs"
        if not self._rows:
            return f"{status}, loading models and scoring the first unit ({elapsed:.0f} s)"
        errors = f", {sum(self._errors.values()):,} rows with errors" if self._errors else ""
        pairs_per_s = self._rows / elapsed
        speed = f"{pairs_per_s:,.{0 if pairs_per_s >= 10 else 2}f} pairs/s, {self._tokens / elapsed:,.0f} tokens/s"
        left = f", {_minutes(self._left())} left" if self._rows < self._num_rows else f", {_minutes(elapsed)} in all"
        return f"{status}, {speed}{errors}{left}"

    def _left(self) -> float:
        """Seconds, by the pace since the first receipt: loading models says nothing about the pace."""
        assert self._first_receipt is not None
        since, rows = self._first_receipt
        if self._rows == rows:
            since, rows = self._start, 0
        return (self._num_rows - self._rows) * (time.monotonic() - since) / (self._rows - rows)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

"""Receipts, summed and shown: on a terminal live, else a line every ten seconds; Ray's metrics; the log of events."""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mapjob.errors import ConfigError
from mapjob.escaping import wrap
from mapjob.pipeline.stages import Cost, Receipt


class Counters:
    """Ray's metrics, for Prometheus and the board in cluster/grafana.json: mapjob_units, mapjob_rows; mapjob_tokens and
    mapjob_model_seconds by scorer; mapjob_errors by reason.
    """

    def __init__(self) -> None:
        from ray.util.metrics import Counter as Metric  # here, so that ranking imports no Ray

        self._units = Metric("mapjob_units", "Units that are committed.")
        self._rows = Metric("mapjob_rows", "Rows of these units.")
        self._tokens = Metric("mapjob_tokens", "Tokens that went through a model.", ("scorer",))
        self._model_s = Metric("mapjob_model_seconds", "Seconds that actors spent in a model.", ("scorer",))
        self._errors = Metric("mapjob_errors", "Rows that are not scored.", ("reason",))

    def add(self, receipt: Receipt) -> None:
        self._units.inc()
        self._rows.inc(receipt.num_rows)
        for name, cost in receipt.costs.items():
            for metric, value in ((self._tokens, cost.tokens), (self._model_s, cost.model_s)):
                if value:
                    metric.inc(value, {"scorer": name})
        for reason, number in receipt.errors.items():
            self._errors.inc(number, {"reason": reason})


class Events:
    """A file of one JSON object per line, for programs that follow a run; without a path, nothing is written."""

    def __init__(self, path: str | None = None):
        self._path = path

    def add(self, event: str, **values: Any) -> None:
        """Append `{"at": ..., "event": event, **values}`. Raises ConfigError if the file cannot be written."""
        if self._path is None:
            return
        line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **values})
        try:
            with Path(self._path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            what = f"the log of events cannot be written: {error.strerror}"
            raise ConfigError(what, self._path, "give another path, or drop --events") from error


class Total:
    """The sum of receipts: units, rows, cost and scored rows by scorer, errors by reason."""

    def __init__(self) -> None:
        self.units = self.rows = 0
        self.costs: dict[str, Cost] = {}
        self.scored: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def add(self, receipt: Receipt) -> None:
        self.units += 1
        self.rows += receipt.num_rows
        for name, cost in receipt.costs.items():
            self.costs[name] = self.costs[name] + cost if name in self.costs else cost
        self.scored.update(receipt.scored)
        self.errors.update(receipt.errors)


class Tally:
    """The receipts of one pass over `num_units` units, their pace and the time that is left.

    clock: seconds that only grow. noun: what a row is.
    """

    def __init__(self, num_units: int, num_rows: int, clock: Callable[[], float] = time.monotonic, noun: str = "pairs"):
        self.num_units, self.num_rows, self._noun = num_units, num_rows, noun
        self.total = Total()
        self._clock, self._start = clock, clock()
        self._first: tuple[float, int] | None = None

    def add(self, receipt: Receipt) -> None:
        self.total.add(receipt)
        if self._first is None:
            self._first = (self._clock(), self.total.rows)

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._start

    @property
    def left_s(self) -> float:
        """By the pace since the first receipt: loading models says nothing about the pace."""
        assert self._first is not None
        since, first_rows = self._first
        rows = self.total.rows
        if rows == first_rows:
            since, first_rows = self._start, 0
        return (self.num_rows - rows) * (self._clock() - since) / (rows - first_rows)

    def line(self) -> str:
        """All of it in one line."""
        rows, num_errors = self.total.rows, self.total.errors.total()
        status = f"{self.total.units}/{self.num_units} units, {rows:,}/{self.num_rows:,} {self._noun}"
        if not rows:
            begun = "loading models and scoring" if self._noun == "pairs" else "reading"
            return f"{status}, {begun} the first unit ({self.elapsed_s:.0f} s)"
        errors = f", {num_errors:,} rows not scored" if num_errors else ""
        rows_per_s = rows / self.elapsed_s
        speed = f"{rows_per_s:,.{0 if rows_per_s >= 10 else 2}f} {self._noun}/s"
        if self.total.costs:
            tokens_per_s = sum(cost.tokens for cost in self.total.costs.values()) / self.elapsed_s
            speed += f", {tokens_per_s:,.0f} tokens/s"
        left = f", {_time(self.left_s)} left" if rows < self.num_rows else f", {_time(self.elapsed_s)} in all"
        return f"{status}, {speed}{errors}{left}"

    def details(self) -> list[str]:
        """One line per scorer, with the number of its actors that are busy on average, and one for the errors.

        MFU, model FLOP utilisation (Chowdhery et al. 2022, arXiv 2204.02311), if the GPU's peak is known: operations
        of the layers over what the GPU does at most in the model's seconds. Attention over the context and the output
        embedding are not counted, so it is a lower bound.
        """
        lines, s = [], self.elapsed_s
        for name, cost in sorted(self.total.costs.items()):
            mfu = f"{cost.flop / cost.peak_flop:>8.0%} MFU" if cost.peak_flop else ""
            lines.append(f"{name:<12}{cost.tokens / s:>12,.0f} tokens/s{cost.model_s / s:>8.2f} actors busy{mfu}")
        if errors := self.total.errors.most_common():
            lines.append("errors: " + ", ".join(f"{reason} {number:,}" for reason, number in errors))
        return lines


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Spent:
    """What one call of `mapjob run` costs: seconds of each stage, and what its receipts add up to."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.total = Total()
        self.gpus = 0.0  # of the cluster, while it scored

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start

    @property
    def as_json(self) -> dict[str, Any]:
        costs = self.total.costs.items()
        return {
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "scored_rows": max(self.total.scored.values(), default=0),  # of the scorer that had most to do
            "tokens": {name: cost.tokens for name, cost in costs},
            "model_s": {name: round(cost.model_s, 3) for name, cost in costs},
            "gpus": self.gpus,
            "engines": {name: cost.engine for name, cost in costs},
        }


PLAIN_LINE_EVERY_S = 10.0


class ScoringProgress:
    """Follows one pass. A context manager; writes to stderr, so that stdout stays for results.

    The same numbers go to Ray's metrics, and to the log of events if there is one.
    """

    def __init__(self, title: str, num_units: int, num_rows: int, events: Events, noun: str = "pairs"):
        self._title, self._tally = title, Tally(num_units, num_rows, noun=noun)
        self.total = self._tally.total
        self._counters, self._events = Counters(), events
        self._stop = threading.Event()
        self._is_live = sys.stderr.isatty()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        self._events.add("pass", scorers=self._title, units=self._tally.num_units, rows=self._tally.num_rows)
        if self._is_live:
            self._live = Live(
                get_renderable=self._view, console=Console(stderr=True), refresh_per_second=2, transient=True
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
        self._tally.add(receipt)
        if not receipt.named:  # a unit that is only read is not committed yet
            self._counters.add(receipt)
        self._events.add("unit", **asdict(receipt))

    def _view(self) -> Text:
        return Text("\n".join([f"{self._title}: {self._tally.line()}", *self._tally.details()]))

    def _tick(self) -> None:
        while not self._stop.wait(PLAIN_LINE_EVERY_S):
            self._line()

    def _line(self) -> None:
        print(wrap(f"{self._title}: {self._tally.line()}"), file=sys.stderr, flush=True)

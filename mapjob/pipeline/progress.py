"""What a person sees while units are scored: a live view on a terminal, a plain line every ten seconds elsewhere."""

import sys
import threading
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mapjob.pipeline.counters import Counters
from mapjob.pipeline.events import Events
from mapjob.pipeline.stages import Receipt
from mapjob.pipeline.tally import Tally

PLAIN_LINE_EVERY_S = 10.0


class ScoringProgress:
    """Follows one pass. A context manager; writes to stderr, so that stdout stays for results.

    The same numbers go to Ray's metrics, and to the log of events where there is one.
    """

    def __init__(self, title: str, num_units: int, num_rows: int, events: Events, noun: str = "pairs"):
        self._title, self._tally = title, Tally(num_units, num_rows, noun=noun)
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
        self._counters.add(receipt)
        self._events.add("unit", **vars(receipt))

    def _view(self) -> Text:
        return Text("\n".join([f"{self._title}: {self._tally.line()}", *self._tally.details()]))

    def _tick(self) -> None:
        while not self._stop.wait(PLAIN_LINE_EVERY_S):
            self._line()

    def _line(self) -> None:
        print(f"{self._title}: {self._tally.line()}", file=sys.stderr, flush=True)

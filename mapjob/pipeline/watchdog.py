"""Ends a run that stands still: resources are held, and no unit has come back for a long time."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Self

import ray

from mapjob.errors import IncompleteError
from mapjob.pipeline.stages import Todo

LISTED = 5  # units that the message names
LOOKS = 20  # in the time that a stall takes to be one


class Watchdog:
    """A context manager around the receipts of a pass. Time in which the cluster gives the run nothing does not count:
    waiting for nodes is no stall."""

    def __init__(self, todo: Sequence[Todo], stall_after_s: float):
        self._waiting = {item.unit.id: item for item in todo}
        self._stall_after_s = stall_after_s
        self._last = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.stalled: IncompleteError | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def seen(self, unit_id: str) -> None:
        """A unit came back."""
        self._waiting.pop(unit_id, None)
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._stop.wait(self._stall_after_s / LOOKS):
            if not _in_use():
                self._last = time.monotonic()
            elif time.monotonic() - self._last > self._stall_after_s:
                self.stalled = self._explained()
                # The main thread waits inside Ray; a signal is what reaches it there. Its handler ends the run.
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _explained(self) -> IncompleteError:
        units = [f"{item.unit.file}, rows {item.unit.start} to {item.unit.stop}" for item in self._waiting.values()]
        more = f" and {len(units) - LISTED:,} more" if len(units) > LISTED else ""
        return IncompleteError(
            f"no unit came back in {self._stall_after_s:,.0f} s, though the cluster is at work ({_in_use()})",
            "; ".join(units[:LISTED]) + more,
            "look at the workers' logs (-v); the same command goes on from what is committed. Is "
            "execution.stall_after_s shorter than one unit takes?",
        )


def _in_use() -> str:
    """Resources of the cluster that are taken, in words; empty where none is."""
    total, free = ray.cluster_resources(), ray.available_resources()
    taken = {name: total[name] - free.get(name, 0.0) for name in ("CPU", "GPU") if name in total}
    return ", ".join(f"{number:g} of {total[name]:g} {name}" for name, number in taken.items() if number > 0)

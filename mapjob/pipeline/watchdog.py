"""What ends a pass early: a signal, or a stall (resources are in use, and no unit has finished for a long time)."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import ray

from mapjob.errors import IncompleteError
from mapjob.pipeline.stages import Todo

AGAIN_S = 10.0  # between two tries to raise a signal's exception in the main thread


@contextlib.contextmanager
def raise_on_signals() -> Iterator[Callable[[], None]]:
    """A block that SIGTERM ends with IncompleteError and Ctrl-C with KeyboardInterrupt; what is committed stays.

    Yields a function to call after ray.init, which has a SIGTERM handler of its own, and may crash the process where it
    is left half way: Ctrl-C waits for it, but no longer than AGAIN_S. Python drops what a handler raises while one of
    Ray's callbacks or destructors runs, so that one signal alone may be lost. SIGUSR1 is the watchdog's: it ends a pass
    and not the run, and the watchdog itself repeats it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    ending: BaseException | None = None
    ray_is_up = False

    def handle(number: int, _: object) -> None:
        nonlocal ending
        if number == signal.SIGUSR1:
            raise IncompleteError("the pass was ended by the watchdog", "this process", "read its message")
        if number == signal.SIGINT:
            ending = KeyboardInterrupt()
        elif number == signal.SIGTERM:
            do = "run the same command again: it resumes from what is committed"
            ending = IncompleteError("interrupted by SIGTERM", "this process", do)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        if ending is not None and (ray_is_up or number == signal.SIGALRM):
            raise ending

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}

    def take_over() -> None:
        for number in numbers:
            signal.signal(number, handle)

    def listen() -> None:
        nonlocal ray_is_up
        take_over()
        ray_is_up = True
        if ending is not None:
            raise ending

    take_over()
    try:
        yield listen
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


MAX_NAMED = 5  # units that the message names
LOOKS_PER_STALL = 20
# Share of stall_after_s for which a pass waits for lost nodes, before it begins again on the nodes that are left.
SHRUNK_SHARE = 1 / 24
SLOWDOWN = 3  # a smaller cluster may take so many times the longest wait between two units so far


class ClusterShrunk(IncompleteError):
    """Nodes are lost, and the units of their actors with them. Pools of the cluster's size of now could go on."""


class Watchdog:
    """A context manager around the receipts of a pass. Waiting for nodes is no stall: time in which the run holds no
    resources does not count.

    Actors of a lost node keep their units until they start again, which they never do on a cluster that stays smaller;
    `ended` is then a ClusterShrunk. size: (CPUs, GPUs) that the pools were made for.
    """

    def __init__(self, todo: Sequence[Todo], stall_after_s: float, size: tuple[float, float]):
        self._waiting = {item.unit.id: item for item in todo}
        self._stall_after_s, self._size = stall_after_s, size
        self._last, self._longest = time.monotonic(), 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.ended: IncompleteError | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def mark_done(self, unit_id: str) -> None:
        self._waiting.pop(unit_id, None)
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now

    def _watch(self) -> None:
        patience_s = SHRUNK_SHARE * self._stall_after_s
        while not self._stop.wait(min(10.0, self._stall_after_s / LOOKS_PER_STALL)):
            waited_s = time.monotonic() - self._last
            if not _in_use():
                self._last = time.monotonic()
            elif waited_s > self._stall_after_s:
                self.ended = self._stalled()
            elif waited_s > max(patience_s, SLOWDOWN * self._longest):
                self.ended = self._shrunk()
            if self.ended is not None:
                # The main thread waits inside Ray, where only a signal reaches it, and not always the first one.
                os.kill(os.getpid(), signal.SIGUSR1)
                while not self._stop.wait(AGAIN_S):
                    os.kill(os.getpid(), signal.SIGUSR1)
                return

    def _shrunk(self) -> ClusterShrunk | None:
        """None while the cluster is as large as it was, or has nothing left of what the pools need."""
        total = ray.cluster_resources()
        now = total.get("CPU", 0.0), total.get("GPU", 0.0)
        if not any(n < then for n, then in zip(now, self._size)) or any(not n and t for n, t in zip(now, self._size)):
            return None
        return ClusterShrunk(
            f"the cluster shrank from {_words(self._size)} to {_words(now)} and no unit has finished since",
            f"{len(self._waiting):,} units",
            "run the same command again: it resumes from what is committed, on the remaining nodes",
        )

    def _stalled(self) -> IncompleteError:
        units = [item.unit.where for item in self._waiting.values()]
        others = f" and {len(units) - MAX_NAMED:,} more" if len(units) > MAX_NAMED else ""
        return IncompleteError(
            f"no unit finished in {self._stall_after_s:,.0f} s, though the cluster is at work ({_in_use()})",
            "; ".join(units[:MAX_NAMED]) + others,
            "look at the workers' logs (-v); the same command resumes from what is committed. Is "
            "execution.stall_after_s shorter than one unit takes?",
        )


def _words(size: tuple[float, float]) -> str:
    cpus, gpus = size
    return f"{cpus:g} CPUs and {gpus:g} GPUs" if gpus else f"{cpus:g} CPUs"


def _in_use() -> str:
    """Resources of the cluster that are in use, in words; empty if none are."""
    total, free = ray.cluster_resources(), ray.available_resources()
    taken = {name: total[name] - free.get(name, 0.0) for name in ("CPU", "GPU") if name in total}
    return ", ".join(f"{number:g} of {total[name]:g} {name}" for name, number in taken.items() if number > 0)

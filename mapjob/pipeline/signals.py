"""SIGTERM (a spot machine's notice) and Ctrl-C: raised in the main thread, again and again until they get through."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from mapjob.errors import IncompleteError

AGAIN_S = 10.0


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Callable[[], None]]:
    """A block that SIGTERM ends with IncompleteError and Ctrl-C with KeyboardInterrupt; what is committed stays.

    Yields a function that listens again, for use after ray.init, which has a SIGTERM handler of its own. Python drops
    what a handler raises while one of Ray's callbacks or destructors runs, so that one signal alone may be lost.
    SIGUSR1 is the watchdog's: it ends a pass and not the run, and the watchdog itself repeats it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    ending: BaseException | None = None

    def told(number: int, _: object) -> None:
        nonlocal ending
        if number == signal.SIGUSR1:
            raise IncompleteError("the pass was told to end", "the watchdog", "see what it says")
        if number == signal.SIGINT:
            ending = KeyboardInterrupt()
        elif number == signal.SIGTERM:
            do = "run the same command again: it goes on from what is committed"
            ending = IncompleteError("the run was told to end (SIGTERM)", "this process, from outside", do)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        if ending is not None:
            raise ending

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}

    def listen() -> None:
        for number in numbers:
            signal.signal(number, told)

    listen()
    try:
        yield listen
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)

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
        if ending is not None and (ray_is_up or number == signal.SIGALRM):
            raise ending

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}

    def take_over() -> None:
        for number in numbers:
            signal.signal(number, told)

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

"""SIGTERM, SIGHUP and Ctrl-C as exceptions in the main thread, held back while Ray starts."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from mapjob.errors import IncompleteError

AGAIN_S = 10.0  # between two tries to raise a signal's exception; the longest that Ray's start holds one back
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """A block that SIGTERM and SIGHUP end with IncompleteError and Ctrl-C with KeyboardInterrupt; what is committed
    stays. Only for the main thread of a program of ours: whoever calls `mapjob.run` has handlers.

    Python drops what a handler raises while a callback or a destructor runs, so the exception comes again until the
    block ends. A signal that is ignored, as under nohup, stays ignored.
    """
    ending: BaseException | None = None

    def handle(number: int, _: object) -> None:
        nonlocal ending
        if number == signal.SIGINT:
            ending = KeyboardInterrupt()
        elif number != signal.SIGALRM:
            do = "run the same command again: it resumes from what is committed"
            ending = IncompleteError(f"interrupted by {signal.Signals(number).name}", "this process", do)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        if ending is not None:
            raise ending

    with _handled_by(handle):
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """A block after which every handler is what it was before it; ending signals wait for that, up to AGAIN_S.

    For ray.init, which sets a handler of SIGTERM and may crash the process if it is left half way. Outside the main
    thread, where neither happens, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    held = contextlib.ExitStack()

    def note(number: int, _: object) -> None:
        if number != signal.SIGALRM:
            waiting.append(number)
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        elif waiting:
            held.close()
            signal.raise_signal(waiting.pop())

    with held:
        held.enter_context(_handled_by(note))
        yield
    if waiting:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.raise_signal(waiting[-1])


@contextlib.contextmanager
def _handled_by(handle: Callable[[int, object], None]) -> Iterator[None]:
    """A block whose signals go to `handle`, but those that are ignored or that Python does not handle."""
    before = {number: signal.getsignal(number) for number in (*ENDING, signal.SIGALRM)}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""A signal ends a block even where the first exception that it raises is swallowed; Ray's start holds it back."""

import os
import signal
import threading
import time

import pytest

from mapjob import interrupts
from mapjob.errors import IncompleteError
from mapjob.interrupts import hold_signals, raise_on_signals

ENDS = [
    (signal.SIGTERM, IncompleteError, "interrupted by SIGTERM"),
    (signal.SIGHUP, IncompleteError, "interrupted by SIGHUP"),
    (signal.SIGINT, KeyboardInterrupt, None),
]
HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM)


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch):
    """Tries that are close together; and handlers and timers are afterwards what they were."""
    monkeypatch.setattr(interrupts, "AGAIN_S", 0.05)
    before = [signal.getsignal(number) for number in HANDLED]
    yield
    assert [signal.getsignal(number) for number in HANDLED] == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


class Deaf:
    """Python drops what is raised while a destructor runs, as it does in the callbacks of C++ code."""

    def __init__(self, number: signal.Signals):
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        time.sleep(0.01)


def wait(deaf: Deaf) -> None:
    with raise_on_signals():
        del deaf
        time.sleep(5)


@pytest.mark.parametrize(("number", "error", "says"), ENDS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_gets_through(number, error, says):
    with pytest.raises(error, match=says):
        wait(Deaf(number))


def test_without_a_signal_nothing_happens():
    with raise_on_signals(), hold_signals():
        pass


def test_nohup_stays():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_on_signals(), hold_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def start_ray(seconds: float, number: signal.Signals, came_up: list[bool]) -> None:
    """As far as signals see it: one comes at once, Ray sets a handler, and is up after so long."""
    with raise_on_signals():
        with hold_signals():
            signal.raise_signal(number)
            time.sleep(seconds)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            came_up.append(True)
        came_up.append(False)


@pytest.mark.parametrize(("number", "error", "says"), ENDS)
def test_a_signal_waits_for_ray_to_be_up(monkeypatch, number, error, says):
    monkeypatch.setattr(interrupts, "AGAIN_S", 10.0)
    came_up: list[bool] = []
    with pytest.raises(error, match=says):
        start_ray(0.2, number, came_up)
    assert came_up == [True]


def test_a_signal_ends_a_ray_that_does_not_come_up():
    came_up: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        start_ray(30, signal.SIGINT, came_up)
    assert not came_up


def test_in_another_thread_ray_starts_as_it_is():
    entered = []

    def start() -> None:
        with hold_signals():
            entered.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert entered == [before]

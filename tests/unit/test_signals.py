"""A signal ends a block even where the first exception that it raises is swallowed."""

import os
import signal
import time

import pytest

from mapjob.errors import IncompleteError
from mapjob.pipeline import watchdog


class Deaf:
    """Python drops what is raised while a destructor runs, as it does in the callbacks of C++ code."""

    def __init__(self, number: signal.Signals):
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        time.sleep(0.01)


def wait(deaf: Deaf) -> None:
    with watchdog.raise_on_signals() as listen:
        listen()
        del deaf
        time.sleep(5)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, IncompleteError), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_gets_through(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, error: type) -> None:
    monkeypatch.setattr(watchdog, "AGAIN_S", 0.05)
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)]
    with pytest.raises(error):
        wait(Deaf(number))
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_without_a_signal_nothing_happens() -> None:
    with watchdog.raise_on_signals() as listen:
        listen()


def start_ray(seconds: float, came_up: list[bool]) -> None:
    """As far as signals see it: Ctrl-C comes at once, and Ray is up after so long."""
    with watchdog.raise_on_signals() as listen:
        signal.raise_signal(signal.SIGINT)
        time.sleep(seconds)
        came_up.append(True)
        listen()


def test_ctrl_c_waits_for_ray_to_be_up() -> None:
    came_up: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        start_ray(0.2, came_up)
    assert came_up


def test_ctrl_c_ends_a_ray_that_does_not_come_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "AGAIN_S", 0.05)
    came_up: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        start_ray(30, came_up)
    assert not came_up

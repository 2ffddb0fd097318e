"""A signal ends a block even where the first exception that it raises is swallowed."""

import os
import signal
import time

import pytest

from mapjob.errors import IncompleteError
from mapjob.pipeline import signals


class Deaf:
    """Python drops what is raised while a destructor runs, as it does in the callbacks of C++ code."""

    def __init__(self, number: signal.Signals):
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        time.sleep(0.01)


def wait(deaf: Deaf) -> None:
    with signals.ended_by_signals():
        del deaf
        time.sleep(5)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, IncompleteError), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_gets_through(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, error: type) -> None:
    monkeypatch.setattr(signals, "AGAIN_S", 0.05)
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)]
    with pytest.raises(error):
        wait(Deaf(number))
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_without_a_signal_nothing_happens() -> None:
    with signals.ended_by_signals() as listen:
        listen()

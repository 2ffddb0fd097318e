"""A run whose models never answer is ended by name, and is resumable; whoever called it stays, and so does its Ray."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
import ray

from mapjob.corpus.units import Unit
from mapjob.errors import IncompleteError
from mapjob.pipeline.graph import begin, receive, stage
from mapjob.pipeline.pools import PoolSize
from mapjob.pipeline.stages import Todo
from mapjob.pipeline.watchdog import ClusterShrunk, Watchdog

pytestmark = pytest.mark.ray
WAITING = [Todo(Unit(f"unit-{i}", "shard.parquet", i * 10, i * 10 + 10), ("policy",)) for i in range(8)]


@pytest.fixture(scope="module", autouse=True)
def idle_cluster() -> Iterator[None]:
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def wait(seconds: float, watchdog: Watchdog) -> None:
    """Wait as a pass does whose units do not come back."""
    watchdog.mark_done("unit-0")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(watchdog.look_every_s)
        watchdog.look()


def test_a_stall_is_ended_and_names_its_units():
    @ray.remote(num_cpus=1)
    def never() -> None:
        time.sleep(30)

    task = never.remote()
    time.sleep(2)
    with pytest.raises(IncompleteError, match=r"no unit finished in 1 s.*1 of \d+ CPU") as caught:
        wait(20, Watchdog(WAITING, 1.0, (4.0, 0.0)))
    assert "shard.parquet, rows 10 to 20" in caught.value.where
    assert "and 2 more" in caught.value.where
    assert caught.value.exit_code == 4
    ray.cancel(task, force=True)


@pytest.mark.parametrize(("size", "ends"), [((8.0, 0.0), True), ((4.0, 0.0), False), ((8.0, 1.0), False)])
def test_a_smaller_cluster_ends_the_pass_if_it_can_go_on(size, ends):
    """A pass for one GPU is not begun anew on CPUs."""

    @ray.remote(num_cpus=1)
    def never() -> None:
        time.sleep(30)

    task = never.remote()
    time.sleep(2)
    with contextlib.ExitStack() as expected:
        if ends:
            expected.enter_context(pytest.raises(ClusterShrunk, match="shrank from 8 CPUs to 4 CPUs"))
        wait(6, Watchdog(WAITING, 48.0, size))
    ray.cancel(task, force=True)


def test_waiting_for_nodes_is_no_stall():
    time.sleep(1)
    wait(3, Watchdog(WAITING, 1.0, (4.0, 0.0)))


class Silent:
    """A model that never answers."""

    def __call__(self, block: pa.Table) -> pa.Table:
        time.sleep(600)
        return block


def score_in_vain() -> str:
    """A pass of which no unit comes back; the message of its end."""
    receipts = stage(begin([item.row for item in WAITING]), Silent, (), PoolSize(1, 1, 1, 0))
    with pytest.raises(IncompleteError) as caught:
        next(receive(receipts, WAITING, 2.0, (4.0, 0.0)))
    return caught.value.what


def in_a_thread() -> str:
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(score_in_vain()))
    thread.start()
    thread.join()
    return said[0]


async def inside_a_loop() -> str:
    """As a cell of a notebook runs."""
    return score_in_vain()


@pytest.mark.parametrize(
    "call",
    [
        score_in_vain,
        in_a_thread,
        lambda: asyncio.run(asyncio.to_thread(score_in_vain)),
        lambda: asyncio.run(inside_a_loop()),
    ],
    ids=["in the main thread", "in a thread", "asyncio.to_thread", "inside a running loop"],
)
def test_a_stall_raises_wherever_it_was_called_from(call: Callable[[], str]):
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    assert call().startswith("no unit finished in 2 s")
    assert [signal.getsignal(number) for number in numbers] == before
    assert ray.is_initialized()
    for _ in range(20):  # the actors of the pass leave what they took
        if ray.available_resources().get("CPU") == 4.0:
            return
        time.sleep(1)
    raise AssertionError(ray.available_resources())


def test_a_ray_that_a_thread_has_started_outlives_the_thread():
    """Linux ends what a thread has started with it, and Ray then ends the process of a second run."""
    code = """
import threading, time, ray
from mapjob.pipeline.cluster import connect
thread = threading.Thread(target=connect, args=(None,))
thread.start(); thread.join(); time.sleep(3)
connect(None)
print(ray.get(ray.remote(lambda: 42).remote()))
"""
    alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=alone)
    assert done.stdout.split()[-1:] == ["42"], done.stderr

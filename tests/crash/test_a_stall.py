"""A run whose models never answer is ended by name, and is resumable."""

import contextlib
import time
from collections.abc import Iterator

import pytest
import ray

from mapjob.corpus.units import Unit
from mapjob.errors import IncompleteError
from mapjob.pipeline.stages import Todo
from mapjob.pipeline.watchdog import ClusterShrunk, Watchdog, raise_on_signals

pytestmark = pytest.mark.ray
WAITING = [Todo(Unit(f"unit-{i}", "shard.parquet", i * 10, i * 10 + 10), ("policy",)) for i in range(8)]


@pytest.fixture(scope="module", autouse=True)
def idle_cluster() -> Iterator[None]:
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def wait(seconds: float, watchdog: Watchdog) -> None:
    """Wait as a run does; what ends the wait names the units."""
    try:
        with raise_on_signals(), watchdog:
            watchdog.mark_done("unit-0")
            time.sleep(seconds)
    except IncompleteError as error:
        raise watchdog.ended or error from None


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

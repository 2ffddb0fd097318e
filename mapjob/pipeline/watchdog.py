"""What ends a pass early: a stall (resources are in use, and no unit has finished for a long time), or lost nodes."""

import time
from collections.abc import Sequence

import ray

from mapjob.errors import IncompleteError
from mapjob.pipeline.cluster import LOOK_S, heartbeat
from mapjob.pipeline.stages import Todo

MAX_NAMED = 5  # units that the message names
LOOKS_PER_STALL = 20
# Share of stall_after_s for which a pass waits for lost nodes, before it begins again on the nodes that are left.
SHRUNK_SHARE = 1 / 24
SLOWDOWN = 3  # a smaller cluster may take so many times the longest wait between two units so far


class ClusterShrunk(IncompleteError):
    """Nodes are lost, and the units of their actors with them. Pools of the cluster's size of now could go on."""


class Watchdog:
    """Looks at a pass while no unit comes back. Waiting for nodes is no stall: time in which the run holds no resources
    does not count.

    Actors of a lost node keep their units until they start again, which they never do on a cluster that stays smaller.
    size: (CPUs, GPUs) that the pools were made for.
    """

    def __init__(self, todo: Sequence[Todo], stall_after_s: float, size: tuple[float, float]):
        self._waiting = {item.unit.id: item for item in todo}
        self._stall_after_s, self._size, self._heartbeat = stall_after_s, size, heartbeat()
        self._last, self._longest = time.monotonic(), 0.0
        self.look_every_s = min(LOOK_S, stall_after_s / LOOKS_PER_STALL)

    def mark_done(self, unit_id: str) -> None:
        self._waiting.pop(unit_id, None)
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now

    def look(self) -> None:
        """Raises IncompleteError if the pass is to end: ClusterShrunk if smaller pools could go on."""
        if not self._heartbeat.check():
            return  # and ask it nothing
        waited_s = time.monotonic() - self._last
        if not _in_use():
            self._last = time.monotonic()
        elif waited_s > self._stall_after_s:
            raise self._stalled()
        elif waited_s > max(SHRUNK_SHARE * self._stall_after_s, SLOWDOWN * self._longest):
            self._check_size()

    def _check_size(self) -> None:
        """Raises ClusterShrunk if the cluster is smaller than it was, and has something of all that the pools need."""
        total = ray.cluster_resources()
        now = total.get("CPU", 0.0), total.get("GPU", 0.0)
        if not any(n < then for n, then in zip(now, self._size)) or any(not n and t for n, t in zip(now, self._size)):
            return
        raise ClusterShrunk(
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

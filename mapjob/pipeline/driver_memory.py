"""What Ray Data holds in the driver for each unit, bounded, so that a corpus of many units needs no larger driver."""

import ctypes
from typing import Any

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.execution_callback import ExecutionCallback

# Blocks that the units begin in. Ray Data keeps each to the end, 10 kB, and makes all of them before the first starts.
MAX_INPUT_BLOCKS = 2000
# Units that wait for one stage. The driver holds about 10 kB for each, and Ray Data itself bounds only their bytes in
# the object store, where small units would all wait at once.
MAX_WAITING = 1000
GIVE_BACK_EVERY = 4000  # blocks that have been forgotten


def keep_driver_small(context: DataContext) -> None:
    """For the graph of this context alone."""
    policies = context.get_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, ENABLED_BACKPRESSURE_POLICIES)
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*policies, FewWait])
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, ForgetBlocks]


class FewWait(BackpressurePolicy):
    """A stage takes on nothing while MAX_WAITING units wait for the stage after it."""

    def can_add_input(self, op: Any) -> bool:
        return all(
            self._topology[later].total_enqueued_input_blocks() < MAX_WAITING for later in op.output_dependencies
        )


class ForgetBlocks(ExecutionCallback):
    """Drops the statistics of finished blocks, which are 1 kB for each unit and stage, and which nobody reads."""

    _forgotten = 0

    def on_execution_step(self, executor: Any) -> None:
        for operator in executor._topology:
            for blocks in operator.get_stats().values():
                self._forgotten += len(blocks)
                blocks.clear()
        if self._forgotten >= GIVE_BACK_EVERY:
            self._forgotten = 0
            _give_back()


def _give_back() -> None:
    """glibc's malloc keeps what was freed in small pieces, 3 kB for each unit, until it is asked."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)

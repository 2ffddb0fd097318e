"""What the driver holds of each unit is bounded, however many units there are."""

import time
from typing import Any

import pytest

from mapjob.pipeline import graph
from mapjob.pipeline.graph import ForgetBlocks
from mapjob.pipeline.pools import PoolSize

pytestmark = pytest.mark.ray
NUM_UNITS = 80
ONE_ACTOR = PoolSize(1, 1, 0.5, 0)
IN_HAND = 8  # units that one actor has in hand or has just passed on


@pytest.mark.parametrize("max_waiting", [3, 1000])
def test_few_units_wait_and_all_are_forgotten(max_waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    kept: list[int] = []
    forget = ForgetBlocks.on_execution_step

    def watched(self: ForgetBlocks, executor: Any) -> None:
        later = [state for op, state in executor._topology.items() if op.input_dependencies]
        kept.append(sum(len(blocks) for state in later for blocks in state.op.get_stats().values()))
        waiting.append(max(state.total_enqueued_input_blocks() for state in later[1:]))
        forget(self, executor)

    class Takes:  # here, so that workers get it by value
        def __init__(self, seconds: float):
            self._seconds = seconds

        def __call__(self, block: Any) -> Any:
            time.sleep(self._seconds)
            return block

    monkeypatch.setattr(graph, "MAX_WAITING", max_waiting)
    monkeypatch.setattr(ForgetBlocks, "on_execution_step", watched)
    units = graph.begin([{"unit": number} for number in range(NUM_UNITS)])
    for seconds in (0.0, 0.1):
        units = graph.stage(units, Takes, (seconds,), ONE_ACTOR)
    assert sorted(row["unit"] for row in units.iter_rows()) == list(range(NUM_UNITS))
    # The second case shows that the second stage would be further behind without the bound.
    assert (max(waiting) <= 3 + IN_HAND) == (max_waiting == 3)
    assert 0 < max(kept) < NUM_UNITS  # of two stages, to the end, if they were not forgotten

"""The simulator: what it says of cases that can be worked out by hand."""

import random

import pytest

from benchmarks import simulate
from benchmarks.simulate import MODEL_LOAD_S, Stage


@pytest.fixture(autouse=True)
def no_spread(monkeypatch) -> None:
    monkeypatch.setattr(simulate, "SPREAD", 0.0)


def stages(*sizes: int, mean_s: float = 10.0) -> list[Stage]:
    return [Stage([0] * size, mean_s, random.Random(0)) for size in sizes]


def test_one_stage_takes_units_over_actors():
    took, nodes, lost = simulate.simulate(10, own := stages(2), 0, random.Random(0))
    assert (took, nodes, lost) == (MODEL_LOAD_S + 50.0, 0, 0)
    assert own[0].useful_s == 100.0


def test_a_second_stage_ends_one_unit_later():
    took, _, _ = simulate.simulate(5, stages(1, 1), 0, random.Random(0))
    assert took == MODEL_LOAD_S + 60.0


def test_a_lost_node_costs_what_it_held_and_the_time_it_is_away():
    own = stages(1)
    took, nodes, lost = simulate.simulate(3, own, 27.0, random.Random(0))
    # The third unit starts at 110 and is lost at 117; its node is back after 390 seconds, and between 507 and 522 no
    # node is lost. While it is away, losing it again costs nothing.
    assert (took, lost) == (MODEL_LOAD_S + 27.0 + simulate.NODE_BACK_S + MODEL_LOAD_S + 10.0, 1)
    assert nodes == (took - MODEL_LOAD_S) // 27.0
    assert own[0].useful_s == 30.0


def test_the_plan_is_that_of_the_planner():
    units, _ = simulate.planned(2_000_000)
    assert len(units) == 1_000
    assert sum(unit.num_rows for unit in units) == 2_000_000
    assert len({unit.id for unit in units}) == 1_000

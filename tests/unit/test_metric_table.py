"""The table that explains every metric, signal and pairing: complete, two lines each, with columns that exist."""

from typing import get_args

import pytest

from mapjob.config import Selection
from mapjob.metrics import adaptive_margins, gamma_po, map, reward_augmented, table, weights
from mapjob.ranking.pairs import SIDES

METHODS = {**table.METRICS, **table.SIGNALS, **{f"pairing {name}": method for name, method in table.PAIRINGS.items()}}
OPTIONAL = {*table.UNCONDITIONAL, *table.COLLISION, *table.DISTANCE}


@pytest.mark.parametrize("name", METHODS)
def test_two_lines_with_a_source(name):
    first, second = METHODS[name].about.split("\n")
    assert 0 < len(first) <= 120
    assert 0 < len(second) <= 120
    assert first[-1] == second[-1] == "."
    assert ("arXiv" in second) != (name == "random")


def test_every_column_is_scored_or_named_as_optional():
    scored = {name for sides in SIDES for name in sides}
    assert {name for method in METHODS.values() for name in method.columns} == scored | OPTIONAL


def test_metrics_and_pairings_of_the_run_file_are_explained():
    assert set(map.METRICS) <= set(table.METRICS)
    assert set(get_args(Selection.model_fields["metric"].annotation)) <= set(table.METRICS)
    assert set(get_args(Selection.model_fields["pairing"].annotation)) <= set(table.PAIRINGS)


@pytest.mark.parametrize("name", table.SIGNALS)
def test_a_signal_is_named_as_its_function(name):
    modules = (adaptive_margins, gamma_po, weights, reward_augmented)
    (function,) = [getattr(module, name) for module in modules if hasattr(module, name)]
    assert "arXiv" in function.__doc__ + str(function.__globals__["__doc__"])

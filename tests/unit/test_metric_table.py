"""The table that explains every metric, signal and pairing: complete, two lines each, with columns that exist."""

import pytest

from mapjob.config.signals import Signals
from mapjob.metrics import adaptive_margins, gamma_po, map, reward_augmented, table, weights
from mapjob.report.card import FORMULAS

METHODS = {**table.METRICS, **table.SIGNALS, **{f"pairing {name}": method for name, method in table.PAIRINGS.items()}}
SCORED = {*table.REWARD, *table.POLICY, *table.REFERENCE, *table.UNCONDITIONAL, *table.COLLISION, table.DISTANCE}


@pytest.mark.parametrize("name", METHODS)
def test_two_lines_with_a_source(name):
    first, second = METHODS[name].about.split("\n")
    assert 0 < len(first) <= 120
    assert 0 < len(second) <= 120
    assert first[-1] == second[-1] == "."
    assert ("arXiv" in second) != (name == "random")


def test_every_column_is_scored_or_a_margin():
    named = {name for method in METHODS.values() for name in method.columns}
    assert named <= SCORED | set(table.MARGINS) | {table.IMPLICIT, table.EACH_MODEL}
    assert {name for parts in table.MARGINS.values() for name in parts} <= SCORED


def test_the_signals_of_the_run_file_are_those_explained():
    assert set(map.METRICS) <= set(table.METRICS)
    assert set(Signals.model_fields) == set(table.SIGNALS)


@pytest.mark.parametrize("name", table.SIGNALS)
def test_a_signal_is_named_as_its_function(name):
    modules = (adaptive_margins, gamma_po, weights, reward_augmented)
    (function,) = [getattr(module, name) for module in modules if hasattr(module, name)]
    assert "arXiv" in function.__doc__ + str(function.__globals__["__doc__"])


def test_the_card_has_a_formula_for_every_metric():
    assert set(FORMULAS) == set(table.METRICS)

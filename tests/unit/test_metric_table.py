"""The table that explains every metric, signal and pairing: complete, two lines each, with columns that exist."""

import numpy as np
import pytest

from mapjob.config.signals import Signals
from mapjob.metrics import about, adaptive_margins, columns, gamma_po, reward_augmented, table, weights
from mapjob.metrics.inputs import Inputs
from mapjob.metrics.map import Scale
from mapjob.report.card import FORMULAS

METHODS = {**table.METRICS, **about.SIGNALS, **{f"pairing {name}": method for name, method in about.PAIRINGS.items()}}
SCORED = {*columns.REWARD, *columns.POLICY, *columns.REFERENCE, *columns.UNCONDITIONAL, *columns.COLLISION}
SCORED.add(columns.DISTANCE)


@pytest.mark.parametrize("name", METHODS)
def test_two_lines_with_a_source(name):
    first, second = METHODS[name].about.split("\n")
    assert 0 < len(first) <= 120
    assert 0 < len(second) <= 120
    assert first[-1] == second[-1] == "."
    assert ("arXiv" in second) != (name == "random")


def test_every_column_is_scored_or_a_margin():
    named = {name for method in METHODS.values() for name in method.columns}
    assert named <= SCORED | set(columns.MARGINS) | {columns.IMPLICIT, columns.EACH_MODEL}
    assert {name for parts in columns.MARGINS.values() for name in parts} <= SCORED


def test_the_signals_of_the_run_file_are_those_explained():
    assert set(Signals.model_fields) == set(about.SIGNALS)


@pytest.mark.parametrize("name", about.SIGNALS)
def test_a_signal_is_named_as_its_function(name):
    modules = (adaptive_margins, gamma_po, weights, reward_augmented)
    (function,) = [getattr(module, name) for module in modules if hasattr(module, name)]
    assert "arXiv" in function.__doc__ + str(function.__globals__["__doc__"])


def test_the_card_has_a_formula_for_every_metric_it_names():
    assert set(FORMULAS) <= set(table.METRICS)


def test_a_new_metric_is_one_entry_of_the_table(monkeypatch):
    entry = table.Metric((columns.H,), "h, once more.\nFor this test. No source.", lambda c: 2 * c[columns.H])
    monkeypatch.setitem(table.METRICS, "twice", entry)
    inputs = Inputs({"reward_margin": np.array([1.0, -2.0])}, "simpo", Scale.raw(1.0))
    assert table.metric("twice", inputs).values.tolist() == [2.0, -4.0]

"""The table that explains every metric, signal and pairing: complete, two lines each, with columns that exist."""

import subprocess
import sys
from pathlib import Path

import pytest

from mapjob.metrics import columns, ensemble, signals, table
from mapjob.report.card import formula

METHODS = {
    **table.METRICS,
    **signals.SIGNALS,
    **{f"pairing {name}": method for name, method in table.PAIRINGS.items()},
}
SCORED = {*columns.REWARD, *columns.POLICY, *columns.REFERENCE, *columns.UNCONDITIONAL, *columns.COLLISION}
SCORED.add(columns.DISTANCE)


@pytest.mark.parametrize("name", METHODS)
def test_two_lines_with_a_source(name):
    first, second = METHODS[name].about.split("\n")
    assert 0 < len(first) <= 120
    assert 0 < len(second) <= 120
    assert first[-1] == second[-1] == "."
    assert ("arXiv" in second) != (name == "random")


@pytest.mark.parametrize("name", ensemble.VOTES)
def test_a_vote_has_two_lines_with_a_source_too(name):
    first, second = ensemble.VOTES[name].about.split("\n")
    assert max(len(first), len(second)) <= 120
    assert "arXiv" in second


def test_every_column_is_scored_or_a_margin():
    named = {name for method in METHODS.values() for name in method.columns}
    assert named <= SCORED | set(columns.MARGINS) | {columns.IMPLICIT, columns.EACH_MODEL}
    assert {name for parts in columns.MARGINS.values() for name in parts} <= SCORED


def test_the_card_has_the_formula_in_the_names_of_columns():
    assert formula("map") == "S_r |reward_margin| - alpha S_i |implicit_margin|"
    assert formula("beta_dpo_weight") == "exp(-z^2 / 2), z = (implicit_margin - mu) / sigma"
    assert formula("random") == "A seeded random number"


# Put into the table before anything reads it, as an entry of its own file would be.
NEW_METRIC = """
from mapjob.metrics.columns import H
from mapjob.metrics.table import METRICS, Metric

METRICS["twice"] = Metric(
    (H,),
    "2 h, for this test.\\nNobody's, arXiv 0000.00000.",
    lambda c: 2 * c[H],
)
"""
USES_OF_IT = """
import numpy as np
from mapjob.cli.app import app
from mapjob.config.selection import Selection
from tests.golden.columns import pairs_of, rank_pairs, synthetic_columns

columns = synthetic_columns(100)
h = columns["chosen_reward"] - columns["rejected_reward"]
ranking = rank_pairs(pairs_of(columns), Selection(metric="twice", metrics=("map",), keep={"count": 7}))
assert ranking.order.tolist() == np.argsort(-h).tolist()
assert ranking.cut_off == 2 * np.sort(h)[-7]
app(["rank", "--list"])
"""
NEW_SIGNAL = """
from mapjob.metrics.columns import H, Positive
from mapjob.metrics.signals import SIGNALS, Signal

def times(h, *, factor: Positive = 2.0):
    '''factor h, for this test.
    Nobody's, arXiv 0000.00000.'''
    return factor * h, h > 0

SIGNALS["times"] = Signal((H,), times, ("times", "times_agrees"))
"""
USES_OF_THE_SIGNAL = """
import pytest
from mapjob.cli.app import app
from mapjob.config.selection import Selection
from tests.golden.columns import pairs_of, rank_pairs, synthetic_columns

columns = synthetic_columns(100)
h = columns["chosen_reward"] - columns["rejected_reward"]
further = rank_pairs(pairs_of(columns), Selection(signals={"times": {"factor": 3}})).further
assert further["times"].tolist() == (3 * h).tolist()
assert further["times_agrees"].tolist() == (h > 0).tolist()
for parameters, fault in (({"factor": 0}, "greater than 0"), ({"facto": 1}, "Extra inputs")):
    with pytest.raises(ValueError, match=fault):
        Selection(signals={"times": parameters})
assert Selection.model_json_schema()["$defs"]["times"]["properties"]["factor"]["default"] == 2.0
app(["rank", "--list"])
"""


@pytest.mark.parametrize(
    ("entry", "uses", "line"),
    [(NEW_METRIC, USES_OF_IT, "2 h, for this test."), (NEW_SIGNAL, USES_OF_THE_SIGNAL, "factor h, for this test.")],
)
def test_a_new_metric_or_signal_is_one_entry_of_its_table(entry, uses, line):
    """The run file takes it, the ranking goes by it, and `mapjob rank --list` explains it; no other file changes."""
    assert len(entry.strip().splitlines()) < 15
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", entry + uses], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert line in done.stdout

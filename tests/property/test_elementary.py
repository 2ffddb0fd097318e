"""exp, tanh, log and log1p: near the C library's, and the same bits whatever instructions numpy may use."""

import ast
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mapjob.metrics.elementary import exp, log, log1p, tanh

PACKAGE = Path(__file__).parents[2] / "mapjob"
BY_PROCESSOR = {
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "logaddexp",
    "logaddexp2",
    "tanh",
    "power",
    "dot",
}


def in_units(ours: np.ndarray, theirs: list[float]) -> float:
    """Largest difference, in units in the last place."""
    return max(abs(a - b) / math.ulp(b) for a, b in zip(ours.tolist(), theirs))


@given(st.lists(st.floats(-745, 709.7), min_size=1))
def test_exp_is_that_of_the_c_library(values):
    assert in_units(exp(np.array(values)), list(map(math.exp, values))) <= 2


@given(st.lists(st.floats(-30, 30) | st.floats(-1e-3, 1e-3), min_size=1))
def test_tanh_is_that_of_the_c_library(values):
    assert in_units(tanh(np.array(values)), list(map(math.tanh, values))) <= 4


@given(st.lists(st.floats(5e-324, 1.7e308), min_size=1))
def test_log_is_that_of_the_c_library(values):
    assert in_units(log(np.array(values)), list(map(math.log, values))) <= 2


@given(st.lists(st.floats(2**-30 - 1, 1.0).filter(bool), min_size=1))
def test_log1p_is_that_of_the_c_library(values):
    assert in_units(log1p(np.array(values)), list(map(math.log1p, values))) <= 3


@given(arrays(np.float64, array_shapes(min_side=0, max_dims=3), elements=st.floats(-700, 700)))
def test_a_value_does_not_depend_on_its_neighbours(values):
    alone = [exp(np.array([value]))[0] for value in values.reshape(-1)]
    assert exp(values).shape == values.shape
    assert exp(values).reshape(-1).tolist() == alone


def test_ends():
    assert exp(np.array([0.0, -0.0, -math.inf, -746.0, math.inf, 710.0])).tolist() == [1, 1, 0, 0, math.inf, math.inf]
    assert np.isnan(exp(np.array([math.nan]))).all()
    assert tanh(np.array([0.0, 5e-324, math.inf, -800.0])).tolist() == [0.0, 5e-324, 1.0, -1.0]
    assert log(np.array([1.0])) == 0
    assert log1p(np.array([0.0, 5e-324, -5e-324])).tolist() == [0.0, 5e-324, -5e-324]
    assert exp(np.zeros(0)).tolist() == []


EVERY_COLUMN = """
import hashlib
import numpy as np
from mapjob.config.selection import Selection
from mapjob.metrics.table import METRICS
from tests.golden.columns import pairs_of, rank_pairs, synthetic_columns
pairs = pairs_of(synthetic_columns(20_000))
signals = {name: {} for name in ("amapo_margin", "gamma_po_margin", "madpo_weight", "mmpo_target", "wpo_weight")}
metrics = [name for name in METRICS if "ensemble" not in name and name != "reward_disagreement"]
for scale in ("zscore", "calibrated"):
    ranking = rank_pairs(pairs, Selection(metrics=metrics, signals=signals, scale=scale, keep={"ratio": 0.4}))
    for values in (ranking.score, ranking.order, *ranking.further.values()):
        print(hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest())
"""


def test_every_metric_and_signal_has_the_same_bits_with_and_without_wide_instructions():
    features = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    if not features:
        pytest.skip("this processor has no instructions beyond numpy's baseline")
    by_features = [
        subprocess.run(
            [sys.executable, "-c", EVERY_COLUMN],
            env=os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(disabled)},
            cwd=PACKAGE.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for disabled in ([], features)
    ]
    assert by_features[0] == by_features[1]
    assert len(by_features[0].split()) > 30


def test_numbers_of_a_ranking_take_no_function_of_numpy_that_differs_by_processor():
    differ = []
    for path in [path for room in ("metrics", "ranking", "selection") for path in (PACKAGE / room).glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            is_of_numpy = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"
            if is_of_numpy and node.attr in BY_PROCESSOR:
                differ.append(f"{path.name}:{node.lineno} np.{node.attr}")
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
                differ.append(f"{path.name}:{node.lineno} @")
    assert differ == []

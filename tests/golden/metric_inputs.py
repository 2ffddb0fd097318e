"""Columns of scored pairs as the tests of metrics need them: as margins, and as rows for plain Python."""

from typing import Any

import numpy as np

from mapjob.metrics import map
from tests.golden.plain_metrics import Row

Columns = dict[str, np.ndarray]

RELATIVE = 1e-9


def rows_of(columns: Columns) -> list[Row]:
    return [dict(zip(columns, values)) for values in zip(*(column.tolist() for column in columns.values()))]


def reward(c: Columns) -> np.ndarray:
    return map.reward_margin(c["chosen_reward"], c["rejected_reward"])


def simpo(c: Columns) -> np.ndarray:
    sides = ("chosen", "rejected")
    return map.simpo_margin(*(c[f"{s}_logps"] for s in sides), *(c[f"{s}_num_tokens"] for s in sides))


def dpo(c: Columns) -> np.ndarray:
    return map.dpo_margin(*(c[f"{ref}{side}_logps"] for ref in ("", "ref_") for side in ("chosen", "rejected")))


def assert_same(ours: np.ndarray, theirs: list[Any]) -> None:
    assert ours.dtype == np.float64
    assert ours.shape == (len(theirs),)
    np.testing.assert_allclose(ours, theirs, rtol=RELATIVE, atol=0)

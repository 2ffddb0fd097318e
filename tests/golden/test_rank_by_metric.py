"""Rankings by the peer metrics of the run file against plain Python loops, and what they have to say on the way."""

import pytest

from mapjob.config import Selection
from tests.golden import plain_metrics as plain
from tests.golden.columns import pairs_of, rank_pairs, synthetic_columns
from tests.golden.metric_inputs import RELATIVE, rows_of

COLUMNS = synthetic_columns(3_000)
ROWS = rows_of(COLUMNS)
EXPECTED = {
    "bees": lambda: plain.bees([([plain.h(row) for row in ROWS], 1.5), ([plain.g(row) for row in ROWS], 2.0)]),
    "difficulty_gap": lambda: [-plain.g(row) for row in ROWS],
    "beta_dpo_weight": lambda: plain.beta_dpo_weight(ROWS, plain.g),
}


@pytest.mark.parametrize("metric", EXPECTED)
def test_best_pairs_first(metric: str) -> None:
    ranking = rank_pairs(pairs_of(COLUMNS), Selection(metric=metric, implicit="dpo"))
    expected = EXPECTED[metric]()
    assert ranking.score.tolist() == pytest.approx(expected, rel=RELATIVE, abs=0)
    scores = ranking.score[ranking.order].tolist()
    assert scores == sorted(scores, reverse=True)
    assert len(ranking.kept) == 1_200


def test_what_is_clipped_is_said() -> None:
    ranking = rank_pairs(pairs_of(COLUMNS), Selection(metric="bees", implicit="dpo"))
    assert any("BeeS clips the implicit margin" in warning for warning in ranking.warnings)

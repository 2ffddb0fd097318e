"""Margins against loops over single pairs, and what the three scales make of them."""

import statistics

import numpy as np
import pytest

from mapjob.config.selection import Selection
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import Ranking
from tests.golden.columns import pairs_of, rank_pairs, synthetic_columns


@pytest.fixture(scope="module", params=["real", "synthetic"])
def pairs(request) -> Pairs:
    if request.param == "synthetic":
        return pairs_of(synthetic_columns(3_000))
    return request.getfixturevalue("scored_pairs")


def rows(pairs: Pairs, ranking: Ranking) -> list[dict[str, float]]:
    """The columns of the pairs that are ranked, in corpus order."""
    pairs = pairs.take(np.isin(pairs.position, ranking.pairs.position))
    return [dict(zip(pairs.columns, map(float, values))) for values in zip(*pairs.columns.values())]


def test_reward_margin(pairs):
    ranking = rank_pairs(pairs, Selection())
    expected = [row["chosen_reward"] - row["rejected_reward"] for row in rows(pairs, ranking)]
    assert ranking.reward_margin.tolist() == expected


def test_simpo_margin(pairs):
    ranking = rank_pairs(pairs, Selection())
    expected = []
    for row in rows(pairs, ranking):
        mean_chosen = row["chosen_logps"] / row["chosen_num_tokens"]
        mean_rejected = row["rejected_logps"] / row["rejected_num_tokens"]
        expected.append(mean_chosen - mean_rejected)
    assert ranking.implicit_margin.tolist() == pytest.approx(expected, rel=1e-13, abs=1e-13)


def test_dpo_margin(pairs):
    ranking = rank_pairs(pairs, Selection(implicit="dpo"))
    expected = []
    for row in rows(pairs, ranking):
        gain_chosen = row["chosen_logps"] - row["ref_chosen_logps"]
        gain_rejected = row["rejected_logps"] - row["ref_rejected_logps"]
        expected.append(gain_chosen - gain_rejected)
    assert ranking.implicit_margin.tolist() == pytest.approx(expected, rel=1e-13, abs=1e-13)


def test_raw_scale_is_the_papers_formula(pairs):
    ranking = rank_pairs(pairs, Selection(scale="raw", implicit="dpo", beta=0.05, alpha=1.0))
    margins = zip(ranking.reward_margin.tolist(), ranking.implicit_margin.tolist())
    expected = [abs(h) - abs(0.05 * g) for h, g in margins]
    assert ranking.map_score.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_zscore_scale_is_the_population_deviation(pairs):
    """By exact rational arithmetic of the standard library, over the rows that are ranked."""
    ranking = rank_pairs(pairs, Selection())
    for ours, margins in (
        (ranking.scale.reward, ranking.reward_margin),
        (ranking.scale.implicit, ranking.implicit_margin),
    ):
        assert 1 / ours == pytest.approx(statistics.pstdev(np.abs(margins).tolist()), rel=1e-12)

"""The calibrated scale against an independent fit: bisection on the derivative of the log-likelihood.

The log-likelihood sum log sigma(S * margin) has the derivative sum margin * sigma(-S * margin), which falls in S.
"""

import numpy as np
import pytest

from mapjob.config.selection import Selection
from mapjob.metrics.map import log_odds_slope
from tests.golden.columns import pairs_of, rank_pairs, synthetic_columns

TOLERANCE = 1e-9


def slope_by_bisection(margins: np.ndarray, doubt: np.ndarray | float = 0.0) -> float:
    def derivative(slope: float) -> float:
        with np.errstate(over="ignore"):
            return float((margins / (1 + np.exp(slope * margins)) - margins * doubt).sum())

    low, high = 0.0, 1.0 / np.abs(margins).max()
    while derivative(high) > 0:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if derivative(middle) > 0 else (low, middle)
    return (low + high) / 2


def test_real_columns(scored_pairs):
    ranking = rank_pairs(scored_pairs, Selection(scale="calibrated", implicit="dpo"))
    assert ranking.scale.reward == pytest.approx(slope_by_bisection(ranking.reward_margin), rel=TOLERANCE)
    assert ranking.scale.implicit == pytest.approx(slope_by_bisection(ranking.implicit_margin), rel=TOLERANCE)


def test_map_in_log_odds():
    """S_r |h| - alpha S_i |g| with both slopes; the policy's margins agree with the labels by construction."""
    ranking = rank_pairs(pairs_of(agreeing_columns()), Selection(scale="calibrated", implicit="dpo", alpha=2.5))
    slopes = [slope_by_bisection(margins) for margins in (ranking.reward_margin, ranking.implicit_margin)]
    expected = slopes[0] * np.abs(ranking.reward_margin) - 2.5 * slopes[1] * np.abs(ranking.implicit_margin)
    np.testing.assert_allclose(ranking.map_score, expected, rtol=1e-7, atol=1e-7)


def agreeing_columns() -> dict[str, np.ndarray]:
    columns = synthetic_columns(20_000)
    columns["chosen_logps"] = columns["ref_chosen_logps"] + np.random.default_rng(0).normal(2, 8, 20_000)
    return columns


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_labels_of_the_reward_model_are_soft_labels_for_the_policy(gap):
    """S_r = 1, and S_i minimises the cross entropy of sigma(S_i g) to sigma(h)."""
    columns = agreeing_columns()
    rewards = np.stack([columns["chosen_reward"], columns["rejected_reward"]])
    columns["chosen_reward"], columns["rejected_reward"] = rewards.max(0) + gap, rewards.min(0)
    ranking = rank_pairs(pairs_of(columns), Selection(scale="calibrated", implicit="dpo"))
    h, g = ranking.reward_margin, ranking.implicit_margin
    assert ranking.scale.reward == 1
    assert ranking.scale.implicit == pytest.approx(slope_by_bisection(g, 1 / (1 + np.exp(h))), rel=TOLERANCE)
    assert any("it is taken to be in log-odds" in warning for warning in ranking.warnings)


def test_many_corpora():
    """Corpora of many sizes, units and degrees of agreement; every one of them to nine digits."""
    deviations = {}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        num, unit = int(rng.integers(50, 20_000)), 10 ** rng.uniform(-3, 3)
        margins = rng.normal(rng.uniform(0.05, 2), rng.uniform(0.3, 2), num) * unit
        if margins.min() < 0 < margins.sum():
            deviations[seed] = log_odds_slope(margins, "margin") / slope_by_bisection(margins) - 1
    assert len(deviations) > 150
    assert {seed: deviation for seed, deviation in deviations.items() if abs(deviation) > TOLERANCE} == {}


def test_one_faint_contradiction():
    margins = np.abs(np.random.default_rng(0).normal(size=1_000))
    margins[0] = -1e-9
    assert log_odds_slope(margins, "margin") == pytest.approx(slope_by_bisection(margins), rel=TOLERANCE)

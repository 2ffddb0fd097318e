"""The statistics of a validation against counting by hand, scipy's optimiser, and what a bootstrap promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

from mapjob.lab.validation.statistics import (
    RIDGE,
    Estimate,
    auroc,
    length_controlled,
    over_trainings,
    prompt_weights,
    ratio,
    sums_by_prompt,
)

SCORES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30)


@given(SCORES)
def test_auroc_counts_pairs(scored):
    score = np.array([value for value, _ in scored], float)
    positive = np.array([is_positive for _, is_positive in scored])
    wins = [float(a > b) + 0.5 * float(a == b) for a in score[positive] for b in score[~positive]]
    assert auroc(score, positive) == pytest.approx(np.mean(wins) if wins else np.nan, nan_ok=True)


def test_auroc_is_mann_whitneys_u():
    rng = np.random.default_rng(0)
    score, positive = rng.normal(size=500).round(1), rng.random(500) < 0.2
    u = mannwhitneyu(score[positive], score[~positive]).statistic
    assert auroc(score, positive) == pytest.approx(u / (positive.sum() * (~positive).sum()))


def of_one_draw(win, longer, weights):
    x = np.tanh(longer / longer.std()) if longer.std() else np.zeros(len(longer))

    def loss(ab):
        z = ab[0] + ab[1] * x
        return (weights * (win * np.logaddexp(0, -z) + (1 - win) * np.logaddexp(0, z))).sum() + RIDGE / 2 * (ab @ ab)

    return 1 / (1 + np.exp(-minimize(loss, np.zeros(2), tol=1e-12).x[0]))


@pytest.mark.parametrize("seed", range(6))
def test_length_controlled_is_the_logistic_regression(seed):
    rng = np.random.default_rng(seed)
    longer = rng.normal(3, 10, 80).round()
    win = rng.choice([0, 0.5, 1], p=[0.3, 0.2, 0.5], size=80)
    weights = prompt_weights(80, 4, seed)
    expected = [of_one_draw(win, longer, own) for own in weights]
    assert length_controlled(win, longer, weights) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("win", [np.ones(20), np.zeros(20), np.r_[np.ones(10), np.zeros(10)]])
def test_length_controlled_where_there_is_no_finite_fit(win):
    longer = np.r_[np.arange(1.0, 11), -np.arange(1.0, 11)]
    (found,) = length_controlled(win, longer, np.ones((1, 20)))
    assert found == pytest.approx(of_one_draw(win, longer, np.ones(20)), abs=1e-4)


def test_length_controlled_takes_the_length_out():
    rng = np.random.default_rng(1)
    longer = rng.normal(20, 10, 20_000)  # answers that win for their length alone
    win = (rng.random(20_000) < 1 / (1 + np.exp(-2 * np.tanh(longer / longer.std())))).astype(float)
    weights = np.ones((1, 20_000))
    assert win.mean() > 0.75
    assert length_controlled(win, longer, weights)[0] == pytest.approx(0.5, abs=0.02)
    same = np.zeros(20_000)
    assert length_controlled(win, same, weights)[0] == pytest.approx(win.mean(), abs=1e-5)


def test_draws_take_as_many_prompts_as_there_are_and_the_first_takes_each_once():
    weights = prompt_weights(13, 50, 0)
    assert weights.shape == (51, 13)
    assert (weights.sum(1) == 13).all()
    assert (weights[0] == 1).all()
    assert (prompt_weights(13, 50, 0) == weights).all()


def test_pairs_of_a_prompt_are_drawn_together_and_nan_counts_nowhere():
    values, prompt = np.array([1.0, 0.0, np.nan, 1.0, 1.0]), np.array([0, 0, 1, 2, 2])
    weights = np.array([[1.0, 1, 1], [2, 0, 1], [0, 3, 0]])
    found = ratio(*sums_by_prompt(values, prompt, 3), weights)
    assert found[:2] == pytest.approx([3 / 4, 4 / 6])
    assert np.isnan(found[2])


def test_trainings_are_drawn_anew_in_every_draw_but_the_first():
    values = np.repeat(np.array([[0.0], [1.0], [5.0]]), 4000, axis=1)
    mean = over_trainings(values, 0)
    assert mean[0] == 2
    assert mean[1:].mean() == pytest.approx(2, abs=0.1)
    assert mean[1:].var() == pytest.approx(np.var([0, 1, 5]) / 3, rel=0.1)
    assert (over_trainings(values[:1], 0) == 0).all()


def test_intervals_cover_as_often_as_they_say():
    """Of a mean over 60 prompts: 95 % of the intervals hold the truth, within what 300 trials can tell."""
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(300):
        values = rng.normal(size=60)
        found = Estimate.of(ratio(values, np.ones(60), prompt_weights(60, 400, trial)))
        covered += found.low <= 0 <= found.high
    assert 0.90 < covered / 300 < 0.98

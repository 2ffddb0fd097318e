"""Training signals against plain Python loops over the same formulas, on made columns (test_metrics_real.py: real)."""

import math

import numpy as np
import pytest

from mapjob.errors import ConfigError
from mapjob.metrics.columns import NUM_TOKENS, REFERENCE
from mapjob.metrics.gamma_po import gamma_po_margin
from mapjob.metrics.reward_augmented import prompt_with_goal, reward_goals
from mapjob.metrics.signals import (
    alpha_dpo_margin,
    amapo_margin,
    bpo_margin,
    madpo_weight,
    mmpo_target,
    repo_loss,
    wpo_weight,
)
from mapjob.metrics.statistics import Moments
from tests.golden import plain_metrics as plain
from tests.golden.columns import synthetic_columns
from tests.golden.metric_inputs import Columns, assert_same, reward, rows_of, simpo

# (beta, gamma0 / beta, tau) as published for Llama-3, Gemma-2, Mistral and Qwen2.5.
GAMMA_PO = [(10, 0.4, 10), (10, 0.5, 20), (2.5, 0.15, 10), (10, 0.3, 3)]


@pytest.fixture(scope="module")
def columns() -> Columns:
    return synthetic_columns(3_000)


@pytest.fixture(scope="module")
def rows(columns: Columns) -> list[plain.Row]:
    return rows_of(columns)


def of_names(columns: Columns, *names: str) -> dict[str, np.ndarray]:
    return {name: columns[name] for name in names}


@pytest.mark.parametrize("beta", [2.0, 3.0])
def test_amapo_margin(columns, rows, beta):
    d = simpo(columns)
    ours = amapo_margin(d, Moments.of(d), beta=beta)
    assert_same(ours.values, plain.amapo(rows, beta))
    assert (ours.values > 0).tolist() == (d < d.mean()).tolist()


def test_alpha_dpo_margin(columns, rows):
    d, more = simpo(columns), of_names(columns, *REFERENCE, *NUM_TOKENS)
    ours = alpha_dpo_margin(d, **more, gamma_beta_ratio=0.4, alpha=0.1)
    assert_same(ours.values, plain.alpha_dpo(rows, 0.4, 0.1))


@pytest.mark.parametrize(("beta", "ratio", "tau"), GAMMA_PO)
def test_gamma_po_margin(columns, rows, beta, ratio, tau):
    gamma0 = beta * ratio
    ours = gamma_po_margin(simpo(columns), beta=beta, gamma_beta_ratio=ratio, tau=tau)
    assert_same(ours.values, plain.gamma_po([beta * plain.d(row) for row in rows], gamma0, tau))
    assert ours.values.mean() == pytest.approx(gamma0, rel=1e-9)
    assert not ours.warnings


@pytest.mark.parametrize(("beta", "ratio", "tau"), GAMMA_PO)
@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_gamma_po_is_what_the_published_procedure_converges_to(beta, ratio, tau, spread):
    gaps = beta * np.random.default_rng(0).normal(0.1, spread, 10_000)
    published = plain.gamma_po_by_exponentiated_gradient(gaps.tolist(), beta * ratio, tau)
    ours = gamma_po_margin(gaps, beta=1.0, gamma_beta_ratio=beta * ratio, tau=tau).values
    np.testing.assert_allclose(ours, published, rtol=1e-3, atol=0)
    assert ours.mean() == pytest.approx(beta * ratio, rel=1e-9)


def test_gamma_po_does_not_depend_on_the_order_of_the_corpus():
    margins = np.random.default_rng(0).normal(0.1, 0.5, 5_000).round(2)  # with ties
    order = np.random.default_rng(1).permutation(5_000)
    assert gamma_po_margin(margins[order]).values.tobytes() == gamma_po_margin(margins).values[order].tobytes()


@pytest.mark.parametrize(("c_max", "c_min", "rate", "tau"), [(2.0, None, 1.0, 6.9068), (4.0, 0.5, 2.0, 0.5)])
def test_madpo_weight(columns, rows, c_max, c_min, rate, tau):
    ours = madpo_weight(reward(columns), c_max=c_max, c_min=c_min, rate=rate, tau=tau)
    assert_same(ours, [plain.madpo(row, c_max, c_min or 1 / c_max, rate, tau) for row in rows])
    assert (reward(columns) < -0.5).any(), "pairs beyond the smaller tau are part of this test"


def test_bpo_margin(columns, rows):
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    rho, chosen_binds = bpo_margin(**of_names(columns, *names), beta=0.1, alpha=0.3)
    theirs = [plain.bpo(row, 0.1, 0.3) for row in rows]
    assert_same(rho, [value for value, _ in theirs])
    assert chosen_binds.tolist() == [binds for _, binds in theirs]
    assert 0 < chosen_binds.mean() < 1


@pytest.mark.parametrize("gamma", [0.4, 0.6])
def test_repo_loss(columns, rows, gamma):
    loss, active = repo_loss(simpo(columns), gamma=gamma)
    theirs = [plain.repo(row, gamma) for row in rows]
    np.testing.assert_allclose(loss, [value for value, _ in theirs], rtol=1e-9, atol=1e-15)
    assert active.tolist() == [on for _, on in theirs]
    assert (loss > 0).tolist() == active.tolist()


@pytest.mark.parametrize("gamma", [2.2, 0.3, 1.1])
def test_mmpo_target(columns, rows, gamma):
    target, swapped = mmpo_target(reward(columns), gamma=gamma)
    theirs = [plain.mmpo(row, gamma) for row in rows]
    assert_same(target, [p for p, _ in theirs])
    assert swapped.tolist() == [swap for _, swap in theirs]


def test_wpo_weight(columns, rows):
    names = ("chosen_logps", "rejected_logps", "chosen_collision_logps", "rejected_collision_logps")
    names += ("chosen_num_tokens", "rejected_num_tokens")
    ours = wpo_weight(**of_names(columns, *names))
    assert_same(ours, [plain.wpo(row) for row in rows])
    assert 0 < (ours == 1).mean() < 1, "clamped and other weights are part of this test"


# Reward-augmented rows


def test_reward_goals(columns, rows):
    columns = {**columns, "chosen_reward": columns["chosen_reward"].copy()}
    columns["chosen_reward"][0] = 1e6  # one outlier changes no other goal by more than a row's place
    goals = reward_goals(columns["chosen_reward"], columns["rejected_reward"])
    rewards = sorted([*columns["chosen_reward"].tolist(), *columns["rejected_reward"].tolist()])
    at = [share * (len(rewards) - 1) for share in (0.01, 0.99)]
    low, high = [rewards[int(x)] + (x - int(x)) * (rewards[int(x) + 1] - rewards[int(x)]) for x in at]
    expected = []
    for pair, (w, u) in enumerate(zip(columns["chosen_reward"].tolist(), columns["rejected_reward"].tolist())):
        if w > u:
            both = [1 + 9 * (x - low) / (high - low) for x in (w, u)]
            expected += [(pair, goal, swap) for goal, swap in zip(both, (False, True))]
    assert goals.pair.tolist() == [pair for pair, _, _ in expected]
    assert_same(goals.goal, [min(max(goal, 1), 10) for _, goal, _ in expected])
    assert goals.swapped.tolist() == [swap for _, _, swap in expected]
    assert goals.num_skipped == len(rows) - len(expected) // 2 > 0
    assert goals.num_beyond == sum(not 1 <= goal <= 10 for _, goal, _ in expected) > 0
    skipped, beyond = goals.warnings
    assert f"{goals.num_skipped:,} pairs" in skipped
    assert f"{goals.num_beyond:,} rewards" in beyond


def test_a_corpus_without_a_goal_is_refused():
    with pytest.raises(ConfigError, match="no goal"):
        reward_goals(np.array([1.0, 2.0]), np.array([1.0, 3.0]))


def test_where_the_goal_is_stated():
    user, system = {"role": "user", "content": "Why?"}, {"role": "system", "content": "Be brief."}
    stated = prompt_with_goal("Why?", 7.25, system_role=True)
    assert stated.endswith("\n\nWhy?")
    goal = stated.removesuffix("\n\nWhy?")
    assert "7.2" in goal
    assert prompt_with_goal([user], 7.25, system_role=True) == [{"role": "system", "content": goal}, user]
    assert prompt_with_goal([user], 7.25, system_role=False) == [{"role": "user", "content": stated}]
    assert prompt_with_goal([system, user], 7.25, system_role=True) == [
        {"role": "system", "content": f"{goal}\n\nBe brief."},
        user,
    ]
    named = {**system, "name": "Ann"}
    (stated_turn, _) = prompt_with_goal([named, user], 7.25, system_role=True)
    assert stated_turn == {"role": "system", "content": f"{goal}\n\nBe brief.", "name": "Ann"}
    assert user == {"role": "user", "content": "Why?"}, "the prompt of the corpus stays as it was"


# What must be said, refused or counted


def test_constant_margins_say_so():
    constant = np.full(5, 0.25)
    for ours, values in (
        (amapo_margin(constant, Moments.of(constant)), [0.0] * 5),
        (alpha_dpo_margin(constant, *np.ones((4, 5)), gamma_beta_ratio=0.4), [0.4] * 5),
    ):
        assert ours.values.tolist() == values
        assert "0.25" in ours.warnings[0]


def test_amapo_has_no_margin_at_the_mean_itself():
    d = np.array([0.0, 1.0, 2.0])
    assert (amapo_margin(d, Moments.of(d)).values > 0).tolist() == [True, False, False]


def test_amapo_tells_of_a_negative_mean_and_counts_what_it_clips():
    d = np.random.default_rng(0).normal(-0.5, 1, 500)
    assert any("below 0" in text for text in amapo_margin(d, Moments.of(d)).warnings)
    d = 30 + np.random.default_rng(0).normal(0, 1, 500)
    ours = amapo_margin(d, Moments.of(d))
    z = (d.mean() - d) / d.std()
    (warning,) = ours.warnings
    assert f"{int((z * d.mean() > 20).sum())} of 500" in warning
    assert ours.values.max() == pytest.approx(2.0 * math.exp(20))


def test_a_policy_that_is_its_reference_has_no_bpo_margin():
    logps = np.array([-3.0, -4.0])
    with pytest.raises(ConfigError, match="reference"):
        bpo_margin(logps, logps - 1, logps, logps - 1)


def test_the_chosen_side_binds_where_both_sides_improved_alike():
    unchanged, improved = np.array([-3.0, -4.0]), np.array([-3.0, -2.0])
    rho, chosen_binds = bpo_margin(improved, unchanged, unchanged, unchanged)
    assert rho.tolist() == [0.0, 0.0]
    assert chosen_binds.tolist() == [True, False]


@pytest.mark.parametrize(("c_max", "c_min"), [(1.0, None), (0.5, 0.2), (2.0, 1.0), (2.0, 0.0)])
def test_madpo_refuses_weights_without_a_middle(c_max, c_min):
    with pytest.raises(ValueError, match="c_max"):
        madpo_weight(np.array([1.0]), c_max=c_max, c_min=c_min)


@pytest.mark.parametrize(("gamma0", "tau"), [(0.0, 1.0), (1.0, 0.0), (1.0, -1.0), (101.0, 1.0), (math.nan, 1.0)])
def test_gamma_po_refuses_parameters_without_a_solution(gamma0, tau):
    with pytest.raises(ValueError, match="gamma0"):
        gamma_po_margin(np.array([1.0]), beta=1.0, gamma_beta_ratio=gamma0, tau=tau)

"""Selection metrics against plain Python loops over the same formulas, on made columns (test_metrics_real.py: real)."""

import math
from typing import Any

import numpy as np
import pytest

from mapjob.config.selection import Selection
from mapjob.errors import ConfigError, Reason
from mapjob.metrics.bees import EXPLICIT_DIVISOR, IMPLICIT_DIVISOR, bees, upper_bound
from mapjob.metrics.dcrm import dcrm, edit_distances
from mapjob.metrics.ensemble import VOTES, standardise
from mapjob.metrics.peers import beta_dpo_weight, ifd_margin
from mapjob.metrics.statistics import Moments
from mapjob.ranking.gather import gather
from mapjob.ranking.pairing import best_sigma
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import Ranking, rank_pairs
from tests.golden import plain_metrics as plain
from tests.golden.columns import pairs_of, synthetic_columns
from tests.golden.metric_inputs import RELATIVE, Columns, assert_same, dpo, reward, rows_of, simpo


@pytest.fixture(scope="module")
def columns() -> Columns:
    return synthetic_columns(3_000)


@pytest.fixture(scope="module")
def rows(columns: Columns) -> list[plain.Row]:
    return rows_of(columns)


def test_margins(columns, rows):
    assert_same(reward(columns), [plain.h(row) for row in rows])
    assert_same(simpo(columns), [plain.d(row) for row in rows])
    assert_same(dpo(columns), [plain.g(row) for row in rows])


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_bees(columns, rows, factor):
    ours = bees({"reward": factor * reward(columns)}, dpo(columns))
    explicit, implicit = [factor * plain.h(row) for row in rows], [plain.g(row) for row in rows]
    assert_same(ours.values, plain.bees([(explicit, 1.5), (implicit, 2)]))
    assert any("clips" in text for text in ours.warnings), "some DPO margins lie below -2"


@pytest.mark.parametrize(("which", "divisor"), [("g", IMPLICIT_DIVISOR), ("h", EXPLICIT_DIVISOR)])
def test_bees_clipping_search(columns, rows, which, divisor):
    margin = {"g": dpo, "h": reward}[which](columns)
    assert upper_bound(margin, divisor) == plain.clipping_bound(margin.tolist(), divisor)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_dcrm(columns, rows, scale):
    c = columns
    ours = dcrm(reward(c), c["edit_distance"], c["chosen_logps"], c["rejected_logps"], scale=scale)
    assert_same(ours, [plain.dcrm(row, scale) for row in rows])


@pytest.mark.parametrize(("margin", "theirs"), [(simpo, plain.d), (dpo, plain.g)])
def test_beta_dpo_weight(columns, rows, margin, theirs):
    values = margin(columns)
    assert_same(beta_dpo_weight(values, Moments.of(values)).values, plain.beta_dpo_weight(rows, theirs))


def test_ifd_margin(columns, rows):
    names = ("chosen_logps", "rejected_logps", "chosen_unconditional_logps", "rejected_unconditional_logps")
    names += ("chosen_num_tokens", "rejected_num_tokens")
    assert_same(ifd_margin(**{name: columns[name] for name in names}), [plain.ifd_margin(row) for row in rows])


def three_models(c: Columns) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The reward model, and two more rewards of very different scale out of what the policy says."""
    per_token = [c[f"{side}_logps"] / c[f"{side}_num_tokens"] for side in ("chosen", "rejected")]
    return {
        "skywork": (c["chosen_reward"], c["rejected_reward"]),
        "armo": (0.01 * per_token[0], 0.01 * per_token[1]),
        "length": (100 - c["chosen_num_tokens"], 100 - c["rejected_num_tokens"]),
    }


def test_ensemble(columns):
    models = three_models(columns)
    margins_KN, warnings = standardise(
        {name: chosen - rejected for name, (chosen, rejected) in models.items()},
        {name: Moments.of(np.concatenate(sides)) for name, sides in models.items()},
    )
    z_scored = []
    for sides in models.values():
        chosen, rejected = (side.tolist() for side in sides)
        mu, dev = plain.mean(chosen + rejected), plain.deviation(chosen + rejected)
        z_scored.append([(one - mu) / dev - (other - mu) / dev for one, other in zip(chosen, rejected)])
    for ours, theirs in (
        (margins_KN.mean(axis=0), plain.mean),
        (margins_KN.min(axis=0), min),
        (margins_KN.std(axis=0), plain.deviation),
    ):
        np.testing.assert_allclose(ours, [theirs(values) for values in zip(*z_scored)], rtol=RELATIVE, atol=1e-14)
    assert not warnings


# Everything that the run file offers, by its name


def with_three_models(c: Columns) -> Columns:
    by_model = three_models(c).items()
    return c | {f"{side}_reward.{m}": both[i] for m, both in by_model for i, side in enumerate(("chosen", "rejected"))}


def rank_all(c: Columns, **selection: Any) -> tuple[Pairs, Ranking]:
    """(the pairs, their ranking), with three reward models."""
    pairs, selection = pairs_of(with_three_models(c)), Selection(**selection)
    rewards = {name: Moments.of(np.concatenate(sides)) for name, sides in three_models(c).items()}
    return pairs, rank_pairs(gather([pairs], len(pairs), selection, rewards), selection, pairs.pair_id.take)


@pytest.fixture(scope="module")
def further(columns: Columns) -> dict[str, np.ndarray]:
    return rank_all(columns, metrics=list(plain.METRIC))[1].further


@pytest.mark.parametrize("name", plain.METRIC)
def test_every_metric_of_the_run_file(columns, further, name):
    theirs = plain.METRIC[name](rows_of(with_three_models(columns)))
    np.testing.assert_allclose(further[name], theirs, rtol=RELATIVE, atol=1e-14)


@pytest.mark.parametrize("votes", VOTES)
def test_what_votes_of_several_reward_models_drop_and_relabel(columns, votes):
    pairs, ranking = rank_all(columns, on_disagreement="drop", votes=votes)
    expected = [plain.is_contradicted(row, votes) for row in rows_of(with_three_models(columns))]
    assert pairs.contradicted(votes).tolist() == expected
    assert 0.02 < np.mean(expected) < 0.98
    assert ranking.pairs.dropped[Reason.DISAGREEMENT].tolist() == np.flatnonzero(expected).tolist()
    relabelled = pairs.swap(pairs.contradicted(votes))
    assert not relabelled.contradicted(votes).any()
    assert (relabelled.chosen == expected).all()


@pytest.mark.parametrize("metric", ["explicit_signed", "implicit_signed_low"])
@pytest.mark.parametrize("between", [(0.3, 0.7), (0, 0.05), (0.9, 1)])
def test_the_middle_of_an_order(columns, rows, metric, between):
    pairs, ranking = rank_all(columns, metric=metric, keep={"between": between})
    score = plain.METRIC[metric](rows)
    order = sorted(range(len(rows)), key=lambda i: (plain.h(rows[i]) == 0, -score[i], pairs.pair_id[i].as_py()))
    first, last = (int(share * len(order)) for share in between)
    assert ranking.kept.tolist() == order[first:last]


def test_best_against_two_sigma_below_the_mean(columns):
    """The rewards of these pairs, cut into prompts of two to nine responses."""
    rewards = np.concatenate([columns["chosen_reward"], columns["rejected_reward"]])
    edges = np.cumsum(np.random.default_rng(0).integers(2, 10, len(rewards)))
    offsets = np.array([0, *edges[edges < len(rewards) - 1], len(rewards)])
    ours = best_sigma(rewards, offsets)
    theirs = [plain.best_sigma(part.tolist()) for part in np.split(rewards, offsets[1:-1])]
    assert list(zip(ours.chosen.tolist(), ours.rejected.tolist(), strict=True)) == theirs


def test_bees_of_several_reward_models(columns):
    models = {name: chosen - rejected for name, (chosen, rejected) in three_models(columns).items()}
    theirs = plain.bees([(margin.tolist(), 1.5) for margin in models.values()])
    assert_same(bees(models).values, theirs)


def test_edit_distance_of_real_texts(flawed_pairs):
    """Bytes stand for tokens; some of these pairs have equal sides."""
    for row in flawed_pairs[:60]:
        sides = [list(row[side].encode()) for side in ("chosen", "rejected", "prompt")]
        ours = edit_distances([np.array(side, np.int32) for side in sides])
        theirs = [plain.levenshtein(sides[a], sides[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        assert ours.tolist() == theirs


# What the methods promise


def test_bees_of_contradictory_pairs_is_one_half_and_never_first():
    """Pairs 0 and 1: one source is entirely sure, the other surely against."""
    explicit = np.array([40.0, -9.0, 12.0, 3.0, 1.0])
    implicit = np.array([-9.0, 60.0, 30.0, 8.0, 0.5])
    found = bees({"reward": explicit}, implicit).values
    assert found[:2].tolist() == [0.5, 0.5]
    assert found.argmax() == 2


def test_bees_says_that_small_margins_have_no_bound():
    margins_like_armo = np.random.default_rng(0).uniform(-0.1, 0.1, 500)
    (warning,) = bees({"armo": margins_like_armo}).warnings
    assert "no upper bound" in warning
    assert "150" in warning
    scaled = bees({"armo": 150 * margins_like_armo})
    assert not any("no upper bound" in text for text in scaled.warnings)


def test_bees_tells_of_one_margin_beside_which_all_others_are_nothing():
    margin = np.append(np.linspace(-1, 20, 99), 1e9)
    told = [text for text in bees({"reward": margin}).warnings if "apart" in text]
    assert told == ["BeeS cannot tell 99 of 100 pairs apart by the margin of reward, beside the largest, 1e+09"]
    assert not any("apart" in text for text in bees({"reward": margin[:-1]}).warnings)


def test_bees_of_a_source_that_says_nothing_is_the_other_source():
    explicit = np.random.default_rng(0).normal(0, 3, 400)
    alone, beside = bees({"reward": explicit}), bees({"reward": explicit}, np.full(400, 7.0))
    np.testing.assert_allclose(beside.values, alone.values, rtol=1e-15)
    assert set(beside.warnings) - set(alone.warnings) == {
        "BeeS: the implicit margin is the same for all pairs within its bounds"
    }


def test_a_reward_model_that_says_nothing_is_left_out():
    telling, silent = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    moments = {"one": Moments.of(np.array([1.0, 2.0, 4.0])), "two": Moments.of(np.full(6, 3.0))}
    both, (warning,) = standardise({"one": telling, "two": silent}, moments)
    alone, _ = standardise({"one": telling}, moments)
    assert both.tolist() == alone.tolist()
    assert "two" in warning
    with pytest.raises(ConfigError, match="same reward"):
        standardise({"two": silent}, moments)


def test_dcrm_keeps_the_digits_of_small_margins():
    margin = np.array([1e-12, -1e-12])
    assert_same(dcrm(margin, np.array([3, 3]), np.zeros(2), np.zeros(2)), [1e-12 / 16, -1e-12 / 16])
    assert math.copysign(1, dcrm(-margin, np.array([3, 3]), np.zeros(2), np.zeros(2))[0]) == -1

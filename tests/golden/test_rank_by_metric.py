"""Every metric and signal of the run file, as rankings and as columns, against plain Python loops on the same pairs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mapjob.config.selection import Selection
from mapjob.errors import ConfigError
from mapjob.metrics.statistics import Moments
from mapjob.metrics.table import METRICS
from mapjob.ranking import rank
from mapjob.ranking.gather import gather
from mapjob.ranking.rank import Ranking
from tests.golden import plain_metrics as plain
from tests.golden.columns import pairs_of, rank_pairs, synthetic_columns
from tests.golden.metric_inputs import RELATIVE, rows_of

COLUMNS = synthetic_columns(3_000)
for model, noise in (("a", 0.5), ("b", 2.0)):
    for side in ("chosen", "rejected"):
        drawn = np.random.default_rng([ord(model), len(side)]).normal(size=3_000)
        COLUMNS[f"{side}_reward.{model}"] = 3 * COLUMNS[f"{side}_reward"] + noise * drawn
ROWS = rows_of(COLUMNS)
REWARDS = {
    model: Moments.of(np.concatenate([COLUMNS[f"chosen_reward.{model}"], COLUMNS[f"rejected_reward.{model}"]]))
    for model in "ab"
}


SIGNAL: dict[str, tuple[dict[str, Any], dict[str, Callable[[], list[Any]]]]] = {
    "amapo_margin": ({"beta": 2.5}, {"amapo_margin": lambda: plain.amapo(ROWS, 2.5)}),
    "alpha_dpo_margin": ({"gamma_beta_ratio": 0.4}, {"alpha_dpo_margin": lambda: plain.alpha_dpo(ROWS, 0.4, 0.1)}),
    "gamma_po_margin": (
        {"beta": 2.5, "gamma_beta_ratio": 0.15, "tau": 10},
        {"gamma_po_margin": lambda: plain.gamma_po([2.5 * plain.d(row) for row in ROWS], 0.375, 10)},
    ),
    "madpo_weight": ({}, {"madpo_weight": lambda: [plain.madpo(row, 2.0, 0.5, 1.0, 6.9068) for row in ROWS]}),
    "bpo_margin": (
        {},
        {
            "bpo_margin": lambda: [plain.bpo(row, 0.1, 0.3)[0] for row in ROWS],
            "bpo_chosen_binds": lambda: [plain.bpo(row, 0.1, 0.3)[1] for row in ROWS],
        },
    ),
    "repo_loss": (
        {"gamma": 0.4},
        {
            "repo_loss": lambda: [plain.repo(row, 0.4)[0] for row in ROWS],
            "repo_active": lambda: [plain.repo(row, 0.4)[1] for row in ROWS],
        },
    ),
    "mmpo_target": (
        {"gamma": 2.2},
        {
            "mmpo_target": lambda: [plain.mmpo(row, 2.2)[0] for row in ROWS],
            "mmpo_swapped": lambda: [plain.mmpo(row, 2.2)[1] for row in ROWS],
        },
    ),
    "wpo_weight": ({}, {"wpo_weight": lambda: [plain.wpo(row) for row in ROWS]}),
}


def ranked(**selection: Any) -> Ranking:
    pairs, selection = pairs_of(COLUMNS), Selection(**selection)
    held = gather([pairs], len(pairs), selection, REWARDS)
    return rank.rank_pairs(held, selection, lambda at: pairs.pair_id.take(at.tolist()))


@pytest.mark.parametrize("metric", plain.METRIC)
def test_best_pairs_first(metric):
    ranking = ranked(metric=metric)
    assert ranking.score.tolist() == pytest.approx(plain.METRIC[metric](ROWS), rel=RELATIVE, abs=1e-14)
    scores = ranking.score[ranking.order].tolist()
    assert scores == sorted(scores, reverse=True)
    assert len(ranking.kept) == 1_200


def test_all_of_them_as_columns_at_once():
    ranking = ranked(metrics=list(plain.METRIC), signals={name: options for name, (options, _) in SIGNAL.items()})
    expected = {name: values(ROWS) for name, values in plain.METRIC.items()}
    for _, columns in SIGNAL.values():
        expected |= {name: values() for name, values in columns.items()}
    assert set(ranking.further) == set(expected)
    for name, values in expected.items():
        assert ranking.further[name].tolist() == pytest.approx(values, rel=RELATIVE, abs=1e-14), name
    # What stands beside the metric does not change it.
    assert ranking.score.tolist() == ranked().score.tolist()
    assert ranking.order.tolist() == ranked().order.tolist()


def test_every_metric_has_a_value_for_every_pair_and_a_golden_number_or_a_test_of_its_own():
    elsewhere = {"map", "map_signed", "random"}
    assert set(plain.METRIC) | elsewhere == set(METRICS)
    for name in METRICS:
        assert np.isfinite(ranked(metric=name).score).all()


def test_the_metric_itself_is_no_further_column():
    assert ranked(metric="bees", metrics=["bees", "map", "dcrm"]).further.keys() == {"dcrm"}


@pytest.mark.parametrize("metric", ["ensemble_mean", "ensemble_worst", "ensemble_bees", "reward_disagreement"])
def test_one_reward_model_is_no_ensemble(metric):
    with pytest.raises(ConfigError, match="there is one"):
        rank_pairs(pairs_of(synthetic_columns(100)), Selection(metric=metric))


def test_what_is_clipped_is_said():
    assert any("BeeS clips the implicit margin" in warning for warning in ranked(metric="bees").warnings)


def test_any_cut_into_units_gives_the_same_bits():
    """As many units as there are pairs, or one: every metric and signal is bit-equal."""
    selection = Selection(metrics=list(plain.METRIC), signals={name: options for name, (options, _) in SIGNAL.items()})
    pairs = pairs_of(COLUMNS)
    whole = ranked(metrics=list(plain.METRIC), signals={name: options for name, (options, _) in SIGNAL.items()})
    for rows in (1, 7, 1_000):
        units = [pairs.take(np.arange(at, min(at + rows, len(pairs)))) for at in range(0, len(pairs), rows)]
        held = gather(units, len(pairs), selection, REWARDS)
        ranking = rank.rank_pairs(held, selection, lambda at: pairs.pair_id.take(at.tolist()))
        assert ranking.order.tolist() == whole.order.tolist()
        for name, values in whole.further.items():
            assert ranking.further[name].tobytes() == values.tobytes(), name


def test_any_order_of_the_corpus_gives_the_same_bits():
    order = np.random.default_rng(5).permutation(len(ROWS))
    shuffled = pairs_of({name: values[order] for name, values in COLUMNS.items()})
    selection = Selection(metrics=list(plain.METRIC), signals={name: options for name, (options, _) in SIGNAL.items()})
    held = gather([shuffled], len(shuffled), selection, REWARDS)
    ranking = rank.rank_pairs(held, selection, lambda at: shuffled.pair_id.take(at.tolist()))
    whole = ranked(metrics=list(plain.METRIC), signals={name: options for name, (options, _) in SIGNAL.items()})
    assert ranking.map_score.tobytes() == whole.map_score[order].tobytes()
    for name, values in whole.further.items():
        assert ranking.further[name].tobytes() == values[order].tobytes(), name

"""Corpora and models on which a metric says nothing: refused with a reason, or scored with a warning."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mapjob.config.input import Columns
from mapjob.config.load import parse_config
from mapjob.config.run import Model
from mapjob.config.selection import Selection
from mapjob.corpus.plan import Corpus
from mapjob.errors import ConfigError, ModelError
from mapjob.scoring.architecture import check_architecture
from mapjob.scoring.model_files import model_files
from mapjob.scoring.spec import scorer_files, scorer_specs
from tests.fakes import config_tree, make_policy, make_reward
from tests.golden.columns import pairs_of, rank_pairs, synthetic_columns
from tests.readings import READINGS

CORPUS = Corpus(READINGS["trl"], Columns(), "chat")


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    return synthetic_columns(1_000)


def make_rewards_constant(columns: dict[str, np.ndarray]) -> None:
    """|h| = 0.3 for every pair, its sign at random."""
    sign = np.where(np.random.default_rng(0).random(1_000) < 0.7, 1.0, -1.0)
    columns["chosen_reward"], columns["rejected_reward"] = 0.3 * (sign > 0), 0.3 * (sign < 0)


def make_logps_constant(columns: dict[str, np.ndarray]) -> None:
    """|d| = 0.4 for every pair."""
    for side, mean in (("chosen", -1.9), ("rejected", -2.3)):
        columns[f"{side}_num_tokens"] = np.full(1_000, 10.0)
        columns[f"{side}_logps"] = np.full(1_000, 10 * mean)


def test_policy_that_equals_its_reference(columns):
    for side in ("chosen", "rejected"):
        columns[f"ref_{side}_logps"] = columns[f"{side}_logps"]
    with pytest.raises(ConfigError, match="every DPO margin is 0"):
        rank_pairs(pairs_of(columns), Selection(implicit="dpo"))
    assert len(rank_pairs(pairs_of(columns), Selection(implicit="simpo")).kept) == 400


def test_reference_that_is_a_copy_of_the_policy(tmp_path):
    """Seen before anything is scored, whatever the folder is called."""
    copy = shutil.copytree(make_policy(tmp_path / "policy"), tmp_path / "copy")
    with pytest.raises(ConfigError, match="policy and reference are the same model"):
        scorers_of(tmp_path, copy)


@pytest.mark.parametrize("role", ["policy", "reference"])
def test_a_reward_model_is_no_policy_and_no_reference(tmp_path, role):
    """With tied embeddings no weight of a language model would be missing."""
    reward = make_reward(tmp_path / "reward")
    files = model_files(Model(path=str(reward)), role)
    with pytest.raises(ModelError, match="ForSequenceClassification is a classifier or a reward model"):
        check_architecture(files, "logps", role)
    check_architecture(files, "rewards", "reward")


def test_reference_of_other_weights(tmp_path):
    make_policy(tmp_path / "policy")
    assert scorers_of(tmp_path, make_policy(tmp_path / "other", seed=7)) == ["policy", "reference", "reward"]


def scorers_of(folder: Path, reference: Path) -> list[str]:
    """Names of the scorers of a run with implicit: dpo, the policy of the folder and this reference."""
    reward = make_reward(folder / "reward")
    tree = config_tree(folder / "unused", folder / "unused", folder / "policy", reward, selection={"implicit": "dpo"})
    tree["models"]["reference"] = {"path": str(reference), "dtype": "float32"}
    config = parse_config(tree)
    return [spec.name for spec in scorer_specs(config, CORPUS, scorer_files(config))]


def test_both_margins_constant(columns):
    make_rewards_constant(columns)
    make_logps_constant(columns)
    with pytest.raises(ConfigError, match="nothing to rank by"):
        rank_pairs(pairs_of(columns), Selection())


def test_constant_reward_margin(columns):
    make_rewards_constant(columns)
    ranking = rank_pairs(pairs_of(columns), Selection(alpha=2.0))
    d = np.abs(ranking.implicit_margin)
    np.testing.assert_allclose(ranking.map_score, -2.0 * d / d.std(), rtol=1e-12)
    assert ["reward margin" in warning for warning in ranking.scale.warnings] == [True]


def test_constant_implicit_margin(columns):
    make_logps_constant(columns)
    ranking = rank_pairs(pairs_of(columns), Selection(alpha=2.0))
    h = np.abs(ranking.reward_margin)
    np.testing.assert_allclose(ranking.map_score, h / h.std(), rtol=1e-12)
    assert ["implicit margin" in warning for warning in ranking.scale.warnings] == [True]


def test_two_margins_that_vary_raise_no_warning(columns):
    assert rank_pairs(pairs_of(columns), Selection()).scale.warnings == ()


def test_calibration_on_labels_that_the_policy_itself_never_contradicts(columns):
    """The slope would grow without bound."""
    columns["chosen_logps"] = columns["chosen_num_tokens"] * 0 - 1
    columns["rejected_logps"] = columns["rejected_num_tokens"] * -9
    with pytest.raises(ConfigError, match="no label contradicts the implicit margin"):
        rank_pairs(pairs_of(columns), Selection(scale="calibrated"))


def test_calibration_on_contradicted_labels(columns):
    columns["chosen_reward"], columns["rejected_reward"] = columns["rejected_reward"], columns["chosen_reward"]
    with pytest.raises(ConfigError, match="the labels contradict the reward margin"):
        rank_pairs(pairs_of(columns), Selection(scale="calibrated"))


def test_calibration_on_labels_at_random(columns):
    """The slope is exactly 0: beside each margin stands its negative."""
    h = np.random.default_rng(0).normal(size=500)
    columns |= {"chosen_reward": np.column_stack([h, -h]).ravel(), "rejected_reward": np.zeros(1_000)}
    with pytest.raises(ConfigError, match="the labels contradict the reward margin"):
        rank_pairs(pairs_of(columns), Selection(scale="calibrated"))


def test_calibration_needs_both_margins(columns):
    """A policy that prefers the rejected sides has no slope either, and the message names it."""
    columns["chosen_logps"] = columns["chosen_num_tokens"] * -3.0
    columns["rejected_logps"] = columns["rejected_num_tokens"] * -1.0
    with pytest.raises(ConfigError, match="the labels contradict the implicit margin"):
        rank_pairs(pairs_of(columns), Selection(scale="calibrated"))

"""Models that return no numbers, the same number, or take another vocabulary than their tokenizer writes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mapjob.config.load import parse_config
from mapjob.errors import InputError, ModelError
from mapjob.job.run import run_job
from tests.bad_inputs.conftest import Run, pairs, write
from tests.fakes import config_tree, make_policy, make_reward, make_tokenizer

CONTAGIOUS = "東"


def with_weights(folder: Path, name: str, change) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights[name])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def contagious_embedding(value: float):
    """One token's embedding is not finite, so every text that holds it has no score."""
    token = make_tokenizer()(CONTAGIOUS, add_special_tokens=False)["input_ids"][0]

    def change(embedding: torch.Tensor) -> None:
        embedding[token] = value

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("name", "make"), [("policy", make_policy), ("reward", make_reward)])
def test_scores_that_are_not_finite_are_errors_of_their_rows(run: Run, tmp_path, name, make, value):
    model = with_weights(make(tmp_path / name), "model.embed_tokens.weight", contagious_embedding(value))
    table = pairs(8)
    texts = table["rejected"].to_pylist()
    texts[5] += CONTAGIOUS
    table = table.set_column(2, "rejected", [texts])
    outcome = run(table, **{name: model})
    assert outcome.reasons == {5: "not_finite"}
    assert outcome.errors[0]["detail"].startswith(f"{name} returned")
    assert outcome.manifest["counts"]["broken"] == 1


def test_a_model_that_never_returns_a_number_ends_the_run(run: Run, tmp_path):
    reward = with_weights(make_reward(tmp_path / "reward"), "score.weight", lambda weight: weight.fill_(torch.nan))
    with pytest.raises(InputError, match="of the rows are broken"):
        run(pairs(4), reward=reward, max_error_rate=0.01)


def test_equal_rewards_everywhere(run: Run, tmp_path):
    """No pair is asked for, so they rank by the policy's margin, with a warning."""
    reward = with_weights(make_reward(tmp_path / "reward"), "score.weight", lambda weight: weight.zero_())
    outcome = run(pairs(8), reward=reward)
    assert outcome.selected["reward_margin"].to_pylist() == [0.0] * 8
    assert outcome.selected["label_agrees"].to_pylist() == [False] * 8
    assert any("reward margin" in warning for warning in outcome.manifest["warnings"])
    sizes = [abs(margin) for margin in outcome.selected["implicit_margin"].to_pylist()]
    assert sizes == sorted(sizes)


def test_models_without_a_pad_token(run: Run, tmp_path):
    """No padding is ever read, so the numbers are those of the same weights with a pad token."""
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    policy = make_policy(tmp_path / "policy", tokenizer=tokenizer)
    without = run(pairs(8), policy=policy, reward=make_reward(tmp_path / "reward", tokenizer=tokenizer))
    assert without.selected.equals(run(pairs(8)).selected)
    assert without.selected.num_rows == 8


@pytest.mark.parametrize(("name", "make"), [("policy", make_policy), ("reward", make_reward)])
def test_a_tokenizer_larger_than_the_embedding(tmp_path, models, name, make):
    small = make(tmp_path / "small", vocab_size=399)
    corpus = write(tmp_path / "corpus", pairs(3))
    config = parse_config(config_tree(corpus, tmp_path / "out", **{**models, name: small}))
    with pytest.raises(ModelError, match="token 399, the model has 399") as caught:
        run_job(config)
    assert caught.value.where == f"models.{name}.path: {small}"
    assert caught.value.exit_code == 2
    assert not list((tmp_path / "out").rglob("*.parquet"))

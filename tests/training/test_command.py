"""`mapjob train` as a user types it, in this process; what it writes is the policy of another run."""

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from mapjob.cli.app import app
from mapjob.config.load import parse_config
from mapjob.config.run import Model
from mapjob.errors import ConfigError
from mapjob.job.prepare import prepare
from mapjob.lab.training.train import trainable_files
from mapjob.store.run_folder import FinishedRun
from tests.fakes import make_policy, make_tokenizer
from tests.training.conftest import finished


def train(run: FinishedRun, *options: str | Path) -> Result:
    return CliRunner().invoke(app, ["train", run.folder.url, *map(str, options)])


def refusal(run: FinishedRun, *options: str | Path) -> ConfigError:
    error = train(run, *options).exception
    assert isinstance(error, ConfigError)
    assert error.do
    return error


QUICK = ("--batch-size", 4, "--accumulate", 2, "--learning-rate", 1e-3, "--max-steps", 5, "--json")


@pytest.mark.parametrize("lora", [(), ("--lora",)], ids=["whole", "lora"])
@pytest.mark.parametrize("objective", ["dpo", "simpo"])
@pytest.mark.parametrize("style", ["chat", "raw"])
def test_from_a_run_to_the_policy_of_the_next(request, tree, output, style, objective, lora):
    run: FinishedRun = request.getfixturevalue(style)
    done = train(run, "--objective", objective, "--output", output, *QUICK, *lora)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    result = json.loads(lines[-1])
    assert result["output"] == str(output)
    assert (result["pairs"], result["steps"], sum(result["dropped"].values())) == (40, 5, 0)
    assert f"last loss  {result['last_loss']:>12.4f}" in lines
    assert len(done.stderr.splitlines()) == 1 + 5  # what is trained on, and a line a step
    assert [file.name for file in output.parent.iterdir()] == ["trained"]

    before = AutoModelForCausalLM.from_pretrained(tree["models"]["policy"]["path"], dtype=torch.float32).state_dict()
    after = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32).state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    if lora:  # the layers alone
        assert all("_proj" in name for name in changed)
    policy = {"path": str(output), "dtype": "float32"}
    job = prepare(parse_config({**tree, "models": {**tree["models"], "policy": policy}}))
    assert job.plan.num_rows == 40
    own = AutoTokenizer.from_pretrained(tree["models"]["policy"]["path"])
    assert AutoTokenizer.from_pretrained(output).special_tokens_map == own.special_tokens_map


def test_a_policy_with_an_adapter_goes_on_from_there(tree, tmp_path):
    """One step at a learning rate of 0 gives the policy itself, its adapter merged."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tree["models"]["policy"]["path"], dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    policy = {**tree["models"]["policy"], "adapter": str(tmp_path / "adapter")}
    models = {**tree["models"], "policy": policy, "reference": None}
    run = finished(tree, models=models)
    output = tmp_path / "trained"
    done = train(run, "--objective", "dpo", "--output", output, "--max-steps", 1, "--learning-rate", 0)
    assert done.exit_code == 0, done.output
    trained = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32).state_dict()
    for name, weight in adapted.merge_and_unload().state_dict().items():
        torch.testing.assert_close(trained[name], weight)


def test_columns_named_like_trls_own_are_ignored(without_reference, output):
    done = train(without_reference, "--objective", "simpo", "--output", output, "--max-steps", 1)
    assert done.exit_code == 0, done.output
    assert "pairs                40" in done.stdout


@pytest.mark.parametrize("objective", ["dpo", "madpo", "bpo", "mmpo"])
def test_what_a_run_lacks_is_named(without_reference, output, objective):
    error = refusal(without_reference, "--objective", objective, "--output", output)
    assert f"{objective} needs ref_chosen_logps and ref_rejected_logps" in error.what
    assert "implicit: dpo" in error.do
    assert error.where == without_reference.folder.url


def test_an_empty_selection(tree, output):
    run = finished(tree, selection={**tree["selection"], "keep": {"count": 0}})
    assert "no pair is selected" in refusal(run, "--objective", "simpo", "--output", output).what


def test_nothing_is_written_over(chat, output):
    output.mkdir()
    (output / "mine").touch()
    assert refusal(chat, "--objective", "simpo", "--output", output).where == str(output)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("alpha=1", "simpo has no parameter 'alpha'"),
        ("beta", "not a parameter: 'beta'"),
        ("beta=high", "parameters.beta: Input should be a valid number"),
        ("beta=0", "parameters.beta: Input should be greater than 0"),
        ("beta=nan", "parameters.beta: Input should be a finite number"),
    ],
)
def test_parameters_that_are_none(chat, output, option, message):
    error = refusal(chat, "--objective", "simpo", "--output", output, "--set", option)
    assert error.what.startswith(message)


def test_parameters_that_an_objective_refuses(chat, output):
    error = refusal(chat, "--objective", "madpo", "--output", output, "--set", "c_max=0.5")
    assert "c_max > 1" in error.what


def test_parameters_are_set(eight, tmp_path):
    def first_loss(name: str, *options: str) -> float:
        output = tmp_path / name
        return json.loads(train(eight, "--output", output, *QUICK, *options).stdout.splitlines()[-1])["first_loss"]

    assert first_loss("dpo", "--objective", "dpo") != first_loss("dpo2", "--objective", "dpo", "--set", "beta=0.5")
    wide = first_loss("simpo", "--objective", "simpo", "--set", "gamma_beta_ratio=3")
    assert wide > first_loss("simpo2", "--objective", "simpo") + 1


def test_a_model_that_takes_no_messages(chat, tmp_path, output):
    other = make_policy(tmp_path / "other", tokenizer=make_tokenizer(chat=False))
    error = refusal(chat, "--objective", "simpo", "--output", output, "--model", other)
    assert "no chat template" in error.what
    short = make_policy(tmp_path / "short", max_position_embeddings=64)
    error = refusal(chat, "--objective", "simpo", "--output", output, "--model", short)
    assert "made for 64 positions" in error.what


def test_code_of_a_model_is_not_run(tree):
    policy = Model(**tree["models"]["policy"], trust_remote_code=True)
    with pytest.raises(ConfigError, match="runs no code"):
        trainable_files(policy, "chat", 512)


def test_without_trl(chat, output, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    error = refusal(chat, "--objective", "dpo", "--output", output)
    assert len(str(error).splitlines()) == 3
    assert error.do == "pip install 'mapjob[train]'"

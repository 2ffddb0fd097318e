"""What `mapjob plan` foretells, against what the run then shows: tokens and reasons exactly, where all is looked at."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from typer.testing import CliRunner

from mapjob.cli.app import app
from mapjob.config.load import parse_config
from mapjob.config.run import Model
from mapjob.errors import ConfigError
from mapjob.job import unit_size
from mapjob.job.forecast import forecast, spread
from mapjob.job.prepare import prepare
from mapjob.scoring.costs import model_cost
from mapjob.scoring.model_files import model_files
from mapjob.scoring.spec import scorer_files
from tests.fakes import ARCHITECTURES, config_tree, make_pairs, make_policy, make_reward, make_tokenizer, write_corpus
from tests.without_ray import run


@pytest.fixture
def tree(tmp_path) -> dict[str, Any]:
    rows = make_pairs(90)
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[4]["chosen"] = None
    rows[5]["chosen"] = "long " * 600
    rows[6]["prompt"] = rows[7]["prompt"]  # a prompt that two pairs share is counted once
    corpus = write_corpus(tmp_path / "in", rows)
    models = make_policy(tmp_path / "policy"), make_reward(tmp_path / "reward", "gpt_neox")
    return config_tree(corpus, tmp_path / "out", *models, execution={"rows_per_unit": 20}) | {"max_error_rate": 0.1}


def test_tokens_and_reasons_are_those_of_the_run(tree):
    config = parse_config(tree)
    found = forecast(prepare(config), seconds=60)
    manifest = run(config)
    assert (found.num_rows, found.num_units) == (90, 6)
    assert {name: load.tokens for name, load in found.loads.items()} == manifest["spent"]["tokens"]
    assert found.reasons == {"identical_completions": 1, "null_field": 1, "overlength": 1}
    assert {reason: manifest["counts"]["by_reason"][reason] for reason in found.reasons} == found.reasons


def test_a_sample_is_whole_units_from_all_over_the_corpus(tree):
    found = forecast(prepare(parse_config(tree)), seconds=0)
    assert found.num_units == 1
    assert list(spread(6)) == [0, 4, 2, 1, 5, 3]
    assert sorted(spread(1000)) == list(range(1000))
    assert list(spread(1)) == [0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_operations_are_those_that_torch_counts(architecture, tmp_path):
    """By the products of a plain forward pass of one sequence; attention counts whole there, causal here."""
    from torch.utils.flop_counter import FlopCounterMode

    tokenizer = make_tokenizer()
    for kind, make, head in (
        (AutoModelForCausalLM, make_policy, True),
        (AutoModelForSequenceClassification, make_reward, False),
    ):
        folder = make(tmp_path / kind.__name__, architecture, tokenizer)
        model = kind.from_pretrained(folder, attn_implementation="eager").eval()
        cost = model_cost(model_files(Model(path=str(folder), dtype="float32"), "policy"), head)
        assert cost.parameters == sum(p.numel() for p in model.parameters())
        length = 64
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(input_ids=torch.arange(10, 10 + length)[None])
        ours = cost.operations(length, length, length * length)
        assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_command_says_it_all_and_writes_nothing(tree, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    arguments = ["plan", str(file), "--gpu", "h100", "--price", "2.5", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out").exists()
    for told in (
        "sample: 90 of 90 rows, 6 of 6 units",
        "identical_completions",
        "tokens per row",
        "GPU hours at 40% of 989 TFLOP/s",
        "this machine: about",
        "policy and reward read: <|user|>",
    ):
        assert told in result.stdout
    data = json.loads(result.stdout.splitlines()[-1])["forecast"]
    assert data["scorers"]["policy"]["tokens"] > 0
    assert data["scorers"]["policy"]["tokens_per_s"] > 0
    assert data["gpu_hours"] > 0
    quick = CliRunner().invoke(app, ["plan", str(file), "--sample-s", "0", "--json"])
    assert "forecast" not in json.loads(quick.stdout.splitlines()[-1])


def test_the_pace_that_plan_measures_sizes_the_units_of_the_run(tree, tmp_path, monkeypatch):
    del tree["execution"]["rows_per_unit"]
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    assert CliRunner().invoke(app, ["plan", str(file)]).exit_code == 0
    (kept,) = (tmp_path / "out" / "plans").glob("pace*")
    assert min(pq.read_table(kept)["seconds_per_row"].to_pylist()) > 0
    monkeypatch.setattr(unit_size, "_flop_per_s", lambda *_: pytest.fail("it is estimated"))
    size = unit_size.size_units(config := parse_config(tree), scorer_files(config, False).values())
    assert size("a.parquet", 200.0) in unit_size.SIZES


def test_an_unknown_gpu_is_named(tree, tmp_path):
    file: Path = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    result = CliRunner().invoke(app, ["plan", str(file), "--gpu", "b9000"])
    assert isinstance(result.exception, ConfigError)
    assert "b9000" in result.exception.what

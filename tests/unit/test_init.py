"""`mapjob init`: every key of the run file, explained, and the reading that was recognised."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mapjob.cli.app import app
from mapjob.config.input import Input, Section
from mapjob.config.load import load_config, parse_config
from mapjob.config.run import Config
from mapjob.config.selection import Selection
from mapjob.config.template import section_of, write_run_file
from mapjob.corpus.plan import make_plan
from mapjob.errors import ConfigError
from mapjob.store.storage import Storage
from tests.fakes import make_pairs, write_corpus

ZOO = Path(__file__).resolve().parents[3] / "shared" / "zoo"
SHORT = {
    "input": {"path": "data"},
    "output": {"path": "out"},
    "models": {"policy": {"path": "p"}, "reward": {"path": "r"}},
}
LONG = {
    **SHORT,
    "name": "a: name # with marks",
    "models": {"policy": {"path": "p", "adapter": "a"}, "reward": {"one": {"path": "x"}, "two": {"path": "y"}}},
    "input": {
        "path": ["a", "b"],
        "reading": {"responses": "c", "prompt": ["system", "q"], "verdict": None},
        "columns": {"group": "g", "id": "no"},
    },
    "selection": {
        "keep": {"count": 5},
        "implicit": "dpo",
        "signals": {"amapo_margin": {"beta": 3.0}, "repo_loss": {}},
        "quotas": {"true": 0.5, "007": 0.1},
    },
    "execution": {"pools": {"policy": {"num_gpus": 0.5}}, "address": "auto"},
    "checks": {"overlap": 0.2},
}


def init(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["init", *map(str, arguments), "--policy", "org/policy", "--reward", "org/reward"])


def keys_of(kind: type[Section], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in kind.model_fields.items():
        yield f"{above}{name}", field
        if (inner := section_of(field)) is not None:
            yield from keys_of(inner, f"{above}{name}.")


@pytest.mark.parametrize("tree", [SHORT, LONG], ids=["short", "long"])
def test_the_file_loads_as_what_was_given_also_with_its_defaults_uncommented(tree):
    text = write_run_file(tree)
    assert parse_config(yaml.safe_load(text)) == parse_config(tree)
    uncommented = re.sub(r"(?m)^# ( *\w+:)", r"\1", text)
    assert len(uncommented) < len(text) - 50
    if tree is SHORT:
        assert parse_config(yaml.safe_load(uncommented)) == parse_config(tree)


def test_every_key_appears_and_is_explained_by_its_own_description():
    text = write_run_file(SHORT)
    words = " ".join(" ".join(re.findall(r"(?m) {2,}# (.*)$", text)).split())
    for path, field in keys_of(Config):
        name = path.rpartition(".")[2]
        assert re.search(rf"(?m)^(# )? *{name}:", text) or re.search(rf"Keys: [^#]*\b{name}\b", words), path
        if not path.startswith("selection.signals."):  # those are explained by their functions
            assert field.description, path
            if not path.startswith(("input.reading.verdict.", "execution.pools.")):  # sections that are only named
                assert field.description.removesuffix(".") in words, path
    assert max(map(len, text.splitlines())) <= 120
    assert all("#" in line for line in text.splitlines() if line)


def test_a_description_that_changes_is_what_is_written(monkeypatch):
    monkeypatch.setattr(Selection.model_fields["seed"], "description", "some other words")
    assert re.search(r"seed: 0 +# some other words\n", write_run_file(SHORT))


def test_a_run_file_is_never_written_over_without_force(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "data", make_pairs(3))
    done = init("data")
    assert done.exit_code == 0, done.output
    assert "sides: [chosen, rejected]" in done.output
    config = load_config("run.yaml")
    assert config.output.path == "output/data"
    assert config.input.reading.sides == ("chosen", "rejected")
    Path("run.yaml").write_text("mine")
    assert isinstance(init("data").exception, ConfigError)
    assert Path("run.yaml").read_text() == "mine"
    done = init("data", "--force", "--output", "s3://bucket/out", "--set", "selection.alpha=2", "--set", "name=x")
    assert done.exit_code == 0, done.output
    config = load_config("run.yaml")
    assert (config.output.path, config.selection.alpha, config.name) == ("s3://bucket/out", 2.0, "x")
    done = init("data", "--out", "new/folder/run.yaml", "--json")
    assert json.loads(done.stdout.splitlines()[-1]) == {"run_file": "new/folder/run.yaml", "rows": 3}


def test_a_corpus_on_s3(bucket, tmp_path):
    file = next(write_corpus(tmp_path / "data", make_pairs(3), num_files=1).iterdir())
    Storage(bucket).create("pairs/part.parquet", file.read_bytes())
    done = init(f"{bucket}/pairs", "--out", tmp_path / "run.yaml")
    assert done.exit_code == 0, done.output
    assert load_config(tmp_path / "run.yaml").input.path == f"{bucket}/pairs"


@pytest.mark.skipif(not ZOO.is_dir(), reason="the forms of corpora are in shared/zoo")
@pytest.mark.parametrize(
    "case", ["csv", "hh_rlhf", "openbmb_ultrafeedback", "reasoning_content", "tools_column", "arena_55k"]
)
def test_the_reading_that_is_written_is_the_one_that_is_recognised(case, tmp_path):
    corpus = ZOO / case / "corpus" if (ZOO / case / "corpus").is_dir() else ZOO / case
    done = init(corpus, "--out", tmp_path / "run.yaml")
    if case == "arena_55k":
        assert done.exit_code > 0
        assert "better answer" in str(done.exception)
        verdict = "input.reading.verdict={higher: [winner_model_a, winner_model_b]}"
        done = init(corpus, "--out", tmp_path / "run.yaml", "--set", verdict)
    assert done.exit_code == 0, done.output
    config = load_config(tmp_path / "run.yaml")
    source = Input(path=str(corpus), **({} if case != "arena_55k" else {"reading": config.input.reading}))
    recognised = make_plan(source, True, 100).corpus
    assert make_plan(config.input, True, 100).corpus == recognised

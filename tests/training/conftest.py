"""Finished runs to train on: 40 pairs as chat and as raw text, cut off, without a reference; and one batch of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mapjob.config.load import parse_config
from mapjob.store.run_folder import FinishedRun, open_run, path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run file that scores a reference and selects every pair."""
    folder = tmp_path_factory.mktemp("training")
    tree = config_tree(
        write_corpus(folder / "corpus", make_pairs(40)),
        folder / "out",
        make_policy(folder / "policy"),
        make_reward(folder / "reward"),
        selection={"implicit": "dpo", "keep": {"ratio": 1.0}},
    )
    tree["models"]["reference"] = {"path": str(make_policy(folder / "reference", seed=2)), "dtype": "float32"}
    return tree


def finished(tree: dict[str, Any], **sections: Any) -> FinishedRun:
    return open_run(path_of(run(parse_config({**tree, **sections}))))


@pytest.fixture(scope="session")
def chat(tree: dict[str, Any]) -> FinishedRun:
    return finished(tree)


@pytest.fixture(scope="session")
def raw(tree: dict[str, Any]) -> FinishedRun:
    return finished(tree, input={**tree["input"], "plain_text": "raw"})


@pytest.fixture(scope="session")
def cut(tree: dict[str, Any]) -> FinishedRun:
    """Scored up to 60 tokens: most completions lost their end."""
    return finished(tree, scoring={"max_length": 60, "overlength": "keep_start"})


@pytest.fixture(scope="session")
def eight(tree: dict[str, Any]) -> FinishedRun:
    """One batch."""
    return finished(tree, selection={**tree["selection"], "keep": {"count": 8}})


@pytest.fixture(scope="session")
def without_reference(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Its corpus has columns of its own that trainers would take for theirs."""
    rows = [{**row, "images": "none", "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0} for row in make_pairs(40)]
    corpus = write_corpus(tmp_path_factory.mktemp("training") / "corpus", rows)
    models = {name: model for name, model in tree["models"].items() if name != "reference"}
    source = {"path": str(corpus), "reading": {"ignore": ["images"]}}
    return finished(tree, input=source, models=models, selection={"keep": {"ratio": 1.0}})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "trained"

"""A tiny policy and reward model, prompts, and a run file over them; all in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mapjob.config.load import parse_config
from mapjob.config.run import Model
from mapjob.lab.selfplay.config import GenerateConfig
from mapjob.lab.selfplay.generate import generate
from mapjob.scoring.model_files import ModelFiles, model_files
from tests.fakes import CHAT_TEMPLATE, make_pairs, make_policy, make_reward, make_tokenizer, write_corpus
from tests.selfplay.in_process import without_ray

Generate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    """Nothing stands behind the token that ends a turn, so that what is scored is what was written."""
    made = make_tokenizer()
    made.chat_template = CHAT_TEMPLATE.replace("{% if bos %}", "{% if false %}").replace("<|end|>\n", "<|end|>")
    return made


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("selfplay")
    return {
        "policy": make_policy(folder / "policy", tokenizer=tokenizer),
        "reward": make_reward(folder / "reward", tokenizer=tokenizer),
    }


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    return make_reward(tmp_path_factory.mktemp("judge") / "judge", tokenizer=tokenizer, seed=5)


@pytest.fixture(scope="session")
def policy(models: dict[str, Path]) -> ModelFiles:
    return model_files(Model(path=str(models["policy"]), dtype="float32"), "policy")


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve prompts of a preference corpus, three of them twice."""
    return write_corpus(tmp_path_factory.mktemp("prompts") / "corpus", [*make_pairs(12), *make_pairs(3)])


@pytest.fixture
def tree(models: dict[str, Path], prompts: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "prompts": {"path": str(prompts), "group": "source"},
        "output": {"path": str(tmp_path / "out")},
        "policy": {"path": str(models["policy"]), "dtype": "float32"},
        "generation": {"num_responses": 3, "temperature": 1.0, "max_new_tokens": 12, "prompts_per_unit": 5},
    }


@pytest.fixture
def generated(tree: dict[str, Any]) -> Generate:
    """`generated(section={...})` runs the run file with some of it changed, and returns generation.json."""

    def call(limit: int | None = None, **sections: Any) -> dict[str, Any]:
        changed = {name: {**tree.get(name, {}), **value} if value else value for name, value in sections.items()}
        with without_ray():
            return generate(parse_config({**tree, **changed}, "test", GenerateConfig), limit)

    return call

"""One local Ray for each file of tests of this folder, and a small world of real files and models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from mapjob.config.load import parse_config
from mapjob.config.run import Config
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    """A Ray of four logical CPUs, so that pools of several actors fit on a small machine."""
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@dataclass(frozen=True)
class World:
    corpus: Path
    policy: Path
    reference: Path
    reward: Path

    def config(self, output: Path, **sections: Any) -> Config:
        return parse_config(config_tree(self.corpus, output, self.policy, self.reward, **sections))


NUM_ROWS = 240


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """240 pairs in three shards, among them exact repeats, identical sides, a null, a control token and a long text."""
    folder = tmp_path_factory.mktemp("world")
    rows = make_pairs(NUM_ROWS)
    rows[10] = rows[3]
    rows[100] = rows[3]
    rows[20]["rejected"] = rows[20]["chosen"]
    rows[31]["chosen"] = None
    rows[42]["rejected"] += " <|end|> and on"
    rows[53]["chosen"] = "word " * 900
    return World(
        write_corpus(folder / "corpus", rows, num_files=3),
        make_policy(folder / "policy", seed=0),
        make_policy(folder / "reference", seed=5),
        make_reward(folder / "reward"),
    )


REASONS = {"duplicate": 2, "identical_completions": 1, "null_field": 1, "control_tokens": 1, "overlength": 1}

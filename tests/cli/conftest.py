"""The program itself, as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus

Mapjob = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def mapjob() -> Mapjob:
    """`mapjob(*arguments)` runs the command line in a process of its own."""

    def call(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "mapjob", *map(str, arguments)]
        environment = {**os.environ, "COLUMNS": "160", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
        options = {"env": environment, "timeout": 300, **options}
        return subprocess.run(command, capture_output=True, text=True, **options)

    return call


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A corpus of 60 pairs, a policy and a reward model on disk."""
    folder = tmp_path_factory.mktemp("cli")
    return {
        "corpus": write_corpus(folder / "corpus", make_pairs(60)),
        "policy": make_policy(folder / "policy"),
        "reward": make_reward(folder / "reward"),
    }


@pytest.fixture
def run_file(files: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """`run_file(section={...})` writes a run file for `files` with some of it changed."""

    def write(**sections: object) -> Path:
        path = tmp_path / "run.yaml"
        tree = config_tree(files["corpus"], tmp_path / "out", files["policy"], files["reward"], **sections)
        path.write_text(yaml.safe_dump(tree))
        return path

    return write

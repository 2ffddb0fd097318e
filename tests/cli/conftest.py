"""The program as a user runs it, in a process of its own or, if Ray is not what a test is about, in this one."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mapjob.cli.app import main
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import without_ray

Mapjob = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def mapjob() -> Mapjob:
    """`mapjob(*arguments)` runs the command line in a process of its own; program="tests.without_ray" needs no Ray."""

    def call(*arguments: str | Path, program: str = "mapjob", **options: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", program, *map(str, arguments)]
        environment = {**os.environ, "COLUMNS": "160", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
        options = {"env": environment, "timeout": 300, **options}
        return subprocess.run(command, capture_output=True, text=True, **options)

    return call


@pytest.fixture(scope="session")
def here() -> Mapjob:
    """`here(*arguments)` runs the command line in this process, and scores without Ray: seconds instead of a minute."""

    def call(*arguments: str | Path, input: str = "") -> subprocess.CompletedProcess:
        command = ["mapjob", *map(str, arguments)]
        out, err, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, without_ray():
            patch.setattr(sys, "argv", command)
            patch.setattr(sys, "stdin", io.StringIO(input))
            patch.setattr(sys, "excepthook", sys.excepthook)
            patch.setenv("COLUMNS", "160")
            patch.setenv("NO_COLOR", "1")
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as ended:
                    code = int(ended.code or 0)
        return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())

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

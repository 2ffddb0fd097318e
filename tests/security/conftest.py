"""What the tests of this folder share: the program, small models, a short folder for a Ray of one's own."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mapjob.cli.app import main
from tests.cli.conftest import mapjob  # noqa: F401
from tests.fakes import make_policy, make_reward


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"policy": make_policy(folder / "policy"), "reward": make_reward(folder / "reward")}


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """For RAY_TMPDIR: the sockets below it leave few characters for its name."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`program(*arguments)` runs the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mapjob", *map(str, arguments)])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capsys.readouterr()

    return call

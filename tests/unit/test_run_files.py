"""The run files of configs/: each is valid for its command, and demo.yaml is the one that the demo writes."""

from pathlib import Path

import pytest

from mapjob.config import Config, load_config
from mapjob.config.generation import GenerateConfig, SelfPlayConfig
from mapjob.validation.config import load_validation
from mapjob.world.run_file import write_run_file

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
KINDS = {"generate": GenerateConfig, "selfplay": SelfPlayConfig}  # of other commands than `mapjob run`


VALIDATIONS = sorted(CONFIGS.glob("validate*.yaml"))
RUN_FILES = sorted(set(CONFIGS.glob("*.yaml")) - set(VALIDATIONS))


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
def test_run_file_is_valid(path: Path) -> None:
    load_config(path, kind=KINDS.get(path.stem.partition("_")[0], Config))


@pytest.mark.parametrize("path", VALIDATIONS, ids=lambda path: path.name)
def test_validation_file_is_valid(path: Path) -> None:
    load_validation(str(path))


def test_the_demo_writes_the_run_file_of_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    assert write_run_file(Path("demo")).read_text() == (CONFIGS / "demo.yaml").read_text()

"""The run files of configs/: each is valid for its command, and demo.yaml is the one that the demo writes."""

from pathlib import Path

import pytest
import yaml

from mapjob.config.load import load_config, parse_config
from mapjob.config.run import Config, Section
from mapjob.errors import ConfigError
from mapjob.lab.selfplay.config import GenerateConfig, load_selfplay
from mapjob.lab.training.config import Training
from mapjob.lab.validation.config import load_validation
from mapjob.lab.world.demo import write_run_file

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
KINDS = {"generate": GenerateConfig}  # of other commands than `mapjob run`


VALIDATIONS = sorted(CONFIGS.glob("validate*.yaml"))
SELF_PLAYS = sorted(CONFIGS.glob("selfplay*.yaml"))
RUN_FILES = sorted(set(CONFIGS.glob("*.yaml")) - {*VALIDATIONS, *SELF_PLAYS})


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
def test_run_file_is_valid(path: Path) -> None:
    load_config(path, kind=KINDS.get(path.stem.partition("_")[0], Config))


@pytest.mark.parametrize("path", SELF_PLAYS, ids=lambda path: path.name)
def test_self_play_file_is_valid(path: Path) -> None:
    load_selfplay(path)


@pytest.mark.parametrize("path", VALIDATIONS, ids=lambda path: path.name)
def test_validation_file_is_valid(path: Path) -> None:
    load_validation(str(path))


def test_the_demo_writes_the_run_file_of_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    assert write_run_file(Path("demo")).read_text() == (CONFIGS / "demo.yaml").read_text()


def test_what_is_overridden_below_run_is_overridden_in_the_run_file_that_it_names(tmp_path: Path) -> None:
    tree = yaml.safe_load((CONFIGS / "validate.yaml").read_text())
    assert isinstance(tree["run"], dict), "or nothing is named here that is not named there"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree["run"]))
    (tmp_path / "validate.yaml").write_text(yaml.safe_dump({**tree, "run": str(tmp_path / "run.yaml")}))
    named = load_validation(str(tmp_path / "validate.yaml"), ["run.selection.held_out=0.35", "random=7"])
    written_out = load_validation(str(CONFIGS / "validate.yaml"), ["run.selection.held_out=0.35", "random=7"])
    assert named == written_out
    assert (named.run.selection.held_out, named.random) == (0.35, 7)


@pytest.mark.parametrize(
    ("kind", "command"),
    [(Config, "schema`"), (GenerateConfig, "schema --command generate"), (Training, "mapjob train --help")],
)
def test_a_fault_names_the_command_that_lists_the_keys(kind: type[Section], command: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"nothing": 1}, "here", kind)
    assert command in caught.value.do

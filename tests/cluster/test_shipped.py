"""What `mapjob submit` ships and what it calls it, and the addresses that it refuses."""

from pathlib import Path

import pytest
import yaml

from mapjob.config.load import load_config, parse_config
from mapjob.config.run import Config
from mapjob.errors import ConfigError
from mapjob.job.submit import RUN_FILE, connect, pack, portable, submission_id
from tests.cluster.nodes import free_ports

TREE = {
    "input": {"path": ["data/a", "s3://corpus/b", "org/c@v1"]},
    "output": {"path": "out"},
    "models": {"policy": {"path": "here"}, "reward": {"one": {"path": "org/one"}, "two": {"path": "org/two"}}},
    "execution": {"address": "ray://somewhere:10001"},
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A run file whose relative paths are those of a folder that has the policy."""
    monkeypatch.chdir(tmp_path)
    for folder in ("here", "data/a"):
        (tmp_path / folder).mkdir(parents=True)
    return parse_config(TREE)


def test_what_is_shipped_means_the_same_elsewhere(config: Config, tmp_path: Path) -> None:
    (tmp_path / "shipped").mkdir()
    pack(config, tmp_path / "shipped")
    shipped = load_config(tmp_path / "shipped" / RUN_FILE)
    assert shipped == portable(config)
    assert shipped.input.path == [str(tmp_path / "data" / "a"), "s3://corpus/b", "hf://datasets/org/c@v1"]
    assert shipped.output.path == str(tmp_path / "out")
    assert {name: model.path for name, model in shipped.scored_models.items() if model is not None} == {
        "policy": str(tmp_path / "here"),
        "reward.one": "org/one",
        "reward.two": "org/two",
    }
    assert shipped.execution.address is None
    assert (tmp_path / "shipped" / "mapjob" / "__main__.py").exists()
    assert (
        tmp_path / "shipped" / RUN_FILE
    ).parent == tmp_path / "shipped" / "mapjob"  # a module is all that is shipped


def test_the_id_is_that_of_the_run_file(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = submission_id(config)
    monkeypatch.chdir("/")
    spelled_out = portable_from(tmp_path, config)
    assert submission_id(spelled_out) == name
    assert len({name, submission_id(spelled_out, 10), submission_id(spelled_out, 20)}) == 3
    other = spelled_out.model_copy(update={"max_error_rate": 0.5})
    assert submission_id(other) != name


def portable_from(folder: Path, config: Config) -> Config:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return portable(config)


def test_no_secret_is_shipped(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "x7Qpl0mNbV31"
    for variable in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(variable, secret)
    (tmp_path / "shipped").mkdir()
    pack(config, tmp_path / "shipped")
    shipped = [file for file in (tmp_path / "shipped").rglob("*") if file.is_file()]
    assert {file.suffix for file in shipped} == {".py", ".css", ".yaml"}
    assert not [file for file in shipped if secret in file.read_text()]
    for url in (f"https://me:{secret}@host/pairs", f"s3://corpus/pairs?token={secret}"):
        tree = yaml.safe_load(yaml.safe_dump(TREE)) | {"input": {"path": url}}
        (tmp_path / "refused").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match="password, key or token") as refused:
            pack(parse_config(tree), tmp_path / "refused")
        assert secret not in str(refused.value)
        assert list((tmp_path / "refused").iterdir()) == []


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:{port}", "no Ray dashboard answers"),
        ("http://127.0.0.1:{port}", "no Ray dashboard answers"),
        ("ray://127.0.0.1:10001", "submitted to a cluster's dashboard"),
        ("http://me:x7Qpl0mNbV31@127.0.0.1:{port}", "holds a password"),
    ],
)
def test_addresses_where_no_job_can_go(address: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match=says) as refused:
        connect(address.format(port=free_ports(1)[0]))
    assert "x7Qpl0mNbV31" not in str(refused.value)
    assert refused.value.where.startswith("--address ")

"""What no waiting mends ends a run at once, with one message that says what, where and what to do."""

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import mapjob.store.storage as disk_puts
from mapjob.config.load import parse_config
from mapjob.config.run import Config
from mapjob.errors import ConfigError, IncompleteError, MapjobError
from mapjob.store.storage import SCRATCH, Storage
from tests.conftest import SmallDisk, forget_filesystems
from tests.crash.standing import standing
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("refusals")
    corpus = write_corpus(folder / "corpus", make_pairs(20))
    return config_tree(corpus, folder / "unused", make_policy(folder / "policy"), make_reward(folder / "reward"))


def into(tree: dict[str, Any], path: object, **more: Any) -> Config:
    return parse_config({**tree, "output": {"path": str(path)}, **more})


def refused(config: Config, kind: type[MapjobError], what: str) -> MapjobError:
    """The error that a run of `config` ends with, within seconds."""
    start = time.monotonic()
    with pytest.raises(kind, match=what) as caught:
        run(config)
    assert time.monotonic() - start < 20
    assert caught.value.where
    assert caught.value.do
    assert type(caught.value) is kind
    return caught.value


def test_no_such_bucket(tree: dict[str, Any], swift_bucket: str) -> None:
    error = refused(into(tree, "s3://no-such-bucket/out"), ConfigError, "no such folder or bucket")
    assert "s3://no-such-bucket/out" in error.where
    refused(
        into(tree, "unused", input={"path": "s3://no-such-bucket/corpus"}), ConfigError, "nothing at this path|no such"
    )
    refused(into(tree, "unused", input={"path": f"{swift_bucket}/corpus"}), ConfigError, "nothing at this path")


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_credentials_that_are_not_known(
    tree: dict[str, Any], swift_bucket: str, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv(wrong, "wrong")
    forget_filesystems()
    error = refused(into(tree, f"{swift_bucket}/out"), ConfigError, "not allowed")
    assert "credentials" in error.do
    refused(into(tree, "unused", input={"path": f"{swift_bucket}/corpus"}), ConfigError, "not allowed")


def test_no_credentials_at_all(
    tree: dict[str, Any], swift_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_filesystems()
    refused(into(tree, f"{swift_bucket}/out"), ConfigError, "not allowed")
    refused(into(tree, "unused", input={"path": f"{swift_bucket}/corpus"}), ConfigError, "not allowed")


def test_a_full_disk_and_the_same_command_once_there_is_room(
    tree: dict[str, Any], small_disk: SmallDisk, tmp_path: Path
) -> None:
    run(into(tree, tmp_path / "elsewhere"))
    with small_disk("size=64k") as folder:
        (folder / "other").write_bytes(bytes(44 * 1024))
        error = refused(into(tree, folder / "out"), IncompleteError, "the storage is full")
        assert "make room" in error.do
        assert str(folder) in error.where
        assert not list((folder / "out" / SCRATCH).iterdir())
        (folder / "other").unlink()
        subprocess.run(["mount", "-o", "remount,size=16m", str(folder)], check=True)
        run(into(tree, folder / "out"))
        assert standing(into(tree, folder / "out")) == standing(into(tree, tmp_path / "elsewhere"))


def test_a_read_only_disk(tree: dict[str, Any], small_disk: SmallDisk) -> None:
    with small_disk("ro") as folder:
        error = refused(into(tree, folder / "out"), ConfigError, "could not be written")
        assert str(folder) in error.where


def test_a_store_that_ignores_conditions(tree: dict[str, Any], careless_bucket: str) -> None:
    error = refused(into(tree, f"{careless_bucket}/out"), ConfigError, "ignores If-None-Match")
    assert "create-only puts" in error.do
    assert Storage(f"{careless_bucket}/out").files("") == [], "nothing was written"


def test_a_disk_without_hard_links(tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(disk_puts.os, "link", link)
    error = refused(into(tree, tmp_path / "out"), ConfigError, "no hard links")
    assert "a disk with hard links" in error.do


def test_a_file_where_the_output_should_be(tree: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    refused(into(tree, tmp_path / "out"), ConfigError, "Not a directory|File exists")
    assert (tmp_path / "out").read_bytes() == b"a file"

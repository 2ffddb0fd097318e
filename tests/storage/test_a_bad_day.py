"""A whole run through a server that has a bad day, input and output alike: the result is that of an undisturbed run."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mapjob.store.remote as remote
from mapjob.config.load import parse_config
from mapjob.config.run import Config
from mapjob.errors import MapjobError
from mapjob.store.remote import filesystem
from tests.conftest import forget_filesystems
from tests.crash.standing import standing
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.storage.fault_proxy import FaultProxy
from tests.without_ray import run

FAULTS = ("503", "reset", "lost", "cut", "slow", "stall")
SHARE = 0.2
SEED = 7


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {
        "corpus": write_corpus(folder / "corpus", make_pairs(24), num_files=3),
        "policy": make_policy(folder / "policy"),
        "reward": make_reward(folder / "reward"),
    }


@pytest.fixture
def tree(files: dict[str, Path], swift_bucket: str) -> dict[str, Any]:
    """A run file over a corpus in the bucket, whose output is to be named."""
    fs, path = filesystem(f"{swift_bucket}/corpus")
    fs.put(str(files["corpus"]), path, recursive=True)
    tree = config_tree(Path("unused"), Path("unused"), files["policy"], files["reward"])
    return {**tree, "input": {"path": f"{swift_bucket}/corpus"}, "execution": {"rows_per_unit": 4}}


@pytest.fixture
def proxy(tree: dict[str, Any], swift_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The bucket's server, from here on behind a proxy, and a client that waits less than it should."""
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    monkeypatch.setitem(remote.S3_OPTIONS["config_kwargs"], "read_timeout", 2)
    with FaultProxy(swift_endpoint).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        forget_filesystems()
        yield proxy


def into(tree: dict[str, Any], bucket: str, name: str) -> Config:
    return parse_config({**tree, "output": {"path": f"{bucket}/{name}"}})


@pytest.mark.slow  # tests/storage/test_faults.py has each fault by itself
def test_a_storm(tree: dict[str, Any], swift_bucket: str, proxy: FaultProxy) -> None:
    run(into(tree, swift_bucket, "calm"))
    calm = proxy.num_requests
    storm = random.Random(SEED)
    proxy.faults.extend(storm.choice(FAULTS) if storm.random() < SHARE else None for _ in range(10 * calm))
    num_faults = sum(fault is not None for fault in proxy.faults)
    run(into(tree, swift_bucket, "storm"))
    met = num_faults - sum(fault is not None for fault in proxy.faults)
    proxy.faults.clear()
    print(f"seed {SEED}: {met} faults in {proxy.num_requests - calm} requests, {calm} without any")
    assert met > 10
    assert standing(into(tree, swift_bucket, "storm")) == standing(into(tree, swift_bucket, "calm"))


def test_credentials_that_expire_in_the_middle(tree: dict[str, Any], swift_bucket: str, proxy: FaultProxy) -> None:
    run(into(tree, swift_bucket, "calm"))
    calm = proxy.num_requests
    for share in (0.1, 0.3, 0.5):
        proxy.faults.extend([None] * int(share * calm))
        proxy.always = "expired"
        with pytest.raises(MapjobError, match=r"the credentials expired|did they expire\?") as caught:
            run(into(tree, swift_bucket, "expired"))
        assert "s3://" in caught.value.where
        proxy.faults.clear()
        proxy.always = None
    run(into(tree, swift_bucket, "expired"))
    assert standing(into(tree, swift_bucket, "expired")) == standing(into(tree, swift_bucket, "calm"))

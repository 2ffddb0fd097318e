"""Fixtures that many tests share."""

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import fsspec
import pytest
from hypothesis import settings

from mapjob.store.remote import filesystem
from tests.storage.rclone import KEYS as RCLONE_KEYS
from tests.storage.rclone import rclone
from tests.storage.swift import KEYS as SWIFT_KEYS
from tests.storage.swift import swift, why_not

# Without deadlines: the machines that run these tests are shared, and a slow example is no fault.
settings.register_profile("mapjob", deadline=None)
settings.load_profile("mapjob")

# One thread a process, set before torch is imported: tiny models gain nothing from more, and on a busy machine threads
# that wait for each other cost minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(os.environ.get("MAPJOB_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real preference data and small trained models beside the repository of its developers."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED}: these tests need the developers' shared folder (set MAPJOB_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def s3_endpoint():
    """A moto server: the real S3 protocol over HTTP, the objects in its memory."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="session")
def swift_endpoint(tmp_path_factory):
    """OpenStack Swift: a real S3 server, which checks signatures and keeps objects on the disk."""
    folder = tmp_path_factory.mktemp("swift")
    if reason := why_not(folder):
        pytest.skip(reason)
    with swift(folder) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def rclone_endpoint(tmp_path_factory):
    """`rclone serve s3`: it ignores If-None-Match."""
    with rclone(tmp_path_factory.mktemp("rclone")) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint, monkeypatch, tmp_path):
    """URL of a fresh bucket of moto, with the environment that reaches it."""
    yield from fresh_bucket(monkeypatch, tmp_path.name, s3_endpoint, "testing", "testing")


@pytest.fixture
def swift_bucket(swift_endpoint, monkeypatch, tmp_path):
    """URL of a fresh bucket of Swift, with the environment that reaches it."""
    yield from fresh_bucket(monkeypatch, tmp_path.name, swift_endpoint, *SWIFT_KEYS)


@pytest.fixture
def careless_bucket(rclone_endpoint, monkeypatch, tmp_path):
    """URL of a fresh bucket of a server that puts over what stands, with the environment that reaches it."""
    yield from fresh_bucket(monkeypatch, tmp_path.name, rclone_endpoint, *RCLONE_KEYS)


SmallDisk = Callable[[str], AbstractContextManager[Path]]


@pytest.fixture
def small_disk(tmp_path) -> SmallDisk:
    """`with small_disk("size=64k") as folder`: a disk in memory, mounted with these options."""

    @contextmanager
    def mounted(options: str) -> Iterator[Path]:
        folder = tmp_path / "disk"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip(f"this user cannot mount a disk: {done.stderr.decode().strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    return mounted


def fresh_bucket(monkeypatch: pytest.MonkeyPatch, name: str, endpoint: str, key: str, secret: str) -> Iterator[str]:
    """The URL of a new bucket, while the environment has what reaches its server."""
    reach_s3(monkeypatch, endpoint, key, secret)
    fs, path = filesystem(f"s3://{name.replace('_', '-').lower()[:50]}")
    fs.mkdir(path)
    yield f"s3://{path}"
    forget_filesystems()


def reach_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str, key: str, secret: str) -> None:
    """From here on s3:// is this server, in this process and in those that it starts."""
    for variable in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    forget_filesystems()


def forget_filesystems() -> None:
    filesystem.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(scope="session")
def modules_cache(tmp_path_factory):
    """Where transformers copies code to that comes with a model: one folder, since a process imports from one."""
    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", folder)
        for module in ("transformers.utils", "transformers.dynamic_module_utils"):  # this process read it long ago
            patch.setattr(f"{module}.HF_MODULES_CACHE", folder)
        yield

"""Fixtures that many tests share."""

import logging
import os
from pathlib import Path

import fsspec
import pytest

from mapjob.corpus.remote import filesystem

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


@pytest.fixture
def bucket(s3_endpoint, monkeypatch, tmp_path):
    """URL of a fresh bucket, with the environment that s3fs needs to reach it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    forget_filesystems()
    fs, path = filesystem(f"s3://{tmp_path.name.replace('_', '-').lower()[:50]}")
    fs.mkdir(path)
    yield f"s3://{path}"
    forget_filesystems()


def forget_filesystems() -> None:
    filesystem.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()

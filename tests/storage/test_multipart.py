"""An object so large that s3fs puts it in parts, on a real server: as create-only, whole and retried as a small one."""

import random

import pytest

import mapjob.store.remote as remote
from mapjob.errors import IncompleteError
from mapjob.store.storage import Storage
from tests.conftest import forget_filesystems
from tests.storage.fault_proxy import FaultProxy

LARGE = 101 * 2**20  # s3fs puts in parts from 100 MiB


@pytest.fixture(scope="module")
def data() -> bytes:
    return random.Random(0).randbytes(LARGE)


def test_parts_are_put_create_only(swift_bucket, data):
    storage = Storage(f"{swift_bucket}/out")
    assert storage.create("large", data)
    assert not storage.create("large", data[::-1])
    assert not storage.create("large", b"small")
    assert storage.read("large") == data
    storage.create("small", b"small")
    assert not storage.create("small", data)
    assert storage.read("small") == b"small"


def test_a_lost_answer_to_the_last_request(swift_bucket, swift_endpoint, data, monkeypatch):
    """The object stands, and the request that was tried again finds no upload to complete."""
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    with FaultProxy(swift_endpoint).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        forget_filesystems()
        storage = Storage(f"{swift_bucket}/out")
        proxy.faults.extend([None] * 4 + ["lost"])  # create the upload, three parts, complete
        assert not storage.create("large", data)
        assert storage.read("large") == data
        proxy.faults.extend([None] * 2)
        proxy.always = "503"
        with pytest.raises(IncompleteError):
            storage.create("other", data)
        proxy.always = None
        assert storage.read("other") is None, "parts alone are no object"

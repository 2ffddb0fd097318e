"""Storage behind a server that spoils requests: what it wrote and read is as if nothing had happened, or it says so."""

import boto3
import pytest

import mapjob.store.remote as remote
from mapjob.corpus.marks import mark_now
from mapjob.errors import ConfigError, IncompleteError
from mapjob.store.storage import Storage
from tests.conftest import forget_filesystems
from tests.storage.fault_proxy import FaultProxy

DATA = bytes(range(256)) * 40


@pytest.fixture
def proxy(s3_endpoint, bucket, monkeypatch):
    """The bucket's server, from here on behind a proxy."""
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    with FaultProxy(s3_endpoint).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        forget_filesystems()
        yield proxy


@pytest.mark.parametrize("fault", ["503", "reset", "lost"])
@pytest.mark.parametrize("times", [1, 3])
def test_an_object_is_written_once_whatever_happens_to_its_requests(proxy, bucket, fault, times):
    storage = Storage(f"{bucket}/out")
    proxy.faults.extend([fault] * times)
    created = storage.create("one", DATA)
    # After a put whose answer was lost the object stands, and looks like another writer's: the caller compares, adopts.
    assert created is (fault != "lost")
    assert storage.read("one") == DATA
    assert not storage.create("one", b"another")
    assert storage.read("one") == DATA


@pytest.mark.parametrize("fault", ["503", "reset", "cut"])
def test_reading_and_listing_through_faults(proxy, bucket, fault):
    storage = Storage(f"{bucket}/out")
    storage.create("folder/one", DATA)
    proxy.faults.extend([fault, fault, None, fault])
    assert storage.read("folder/one") == DATA
    proxy.faults.extend(["503", "reset"])
    assert storage.names("folder") == ["one"]


def test_a_storm_without_end_is_resumable(proxy, bucket):
    proxy.always = "503"
    with pytest.raises(IncompleteError, match="the storage did not answer in 6 attempts"):
        Storage(f"{bucket}/out").create("one", DATA)
    assert proxy.num_requests <= 6 * 5


def test_a_refusal_is_not_tried_again(proxy, bucket):
    proxy.always = "403"
    with pytest.raises(ConfigError, match="not allowed"):
        Storage(f"{bucket}/out").create("one", DATA)
    assert proxy.num_requests <= 2


def test_what_another_process_writes_after_a_listing_is_read(bucket):
    storage = Storage(f"{bucket}/out")
    storage.create("folder/one", DATA)
    assert storage.names("folder") == ["one"]
    other = boto3.client("s3")
    other.put_object(Bucket=bucket.removeprefix("s3://"), Key="out/folder/two", Body=b"2")
    assert storage.read("folder/two") == b"2"
    identity = mark_now(f"{bucket}/out/folder/two")
    other.put_object(Bucket=bucket.removeprefix("s3://"), Key="out/folder/two", Body=b"another")
    assert mark_now(f"{bucket}/out/folder/two") != identity


@pytest.mark.parametrize("faults", [["lost"], ["503", "lost", "reset"]])
def test_the_probe_is_not_deceived_by_lost_answers(proxy, bucket, faults):
    proxy.faults.extend(faults)
    Storage(f"{bucket}/out").check_conditions()


def test_an_expired_token_is_resumable(proxy, bucket):
    proxy.always = "expired"
    with pytest.raises(IncompleteError, match="the credentials expired") as caught:
        Storage(f"{bucket}/out").create("one", DATA)
    assert "renew them" in caught.value.do
    assert proxy.num_requests <= 2


def test_a_store_that_does_not_know_conditions_says_so_at_once(proxy, bucket):
    proxy.always = "501"
    with pytest.raises(ConfigError, match="does not know If-None-Match"):
        Storage(f"{bucket}/out").check_conditions()
    assert proxy.num_requests <= 4


def test_conditions_are_probed(proxy, bucket):
    storage = Storage(f"{bucket}/out")
    storage.check_conditions()
    assert storage.files(".writing") == [], "the probe leaves nothing"


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAEXAMPLE:topsecret@bucket/corpus",
        "https://host/shard.parquet?X-Amz-Signature=topsecret&x=1",
        "https://host/shard.parquet?token=topsecret",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match="holds a password, key or token") as caught:
        remote.filesystem(url)
    assert "topsecret" not in str(caught.value)

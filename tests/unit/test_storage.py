"""Create-only puts, on a local disk and on an S3 server: whole, once, also when many write at the same moment."""

import io
import multiprocessing
import os
import pickle
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from threading import Barrier

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mapjob.config.input import Input
from mapjob.corpus.files import find_files
from mapjob.corpus.footers import read_file
from mapjob.corpus.plan import make_plan
from mapjob.corpus.reader import read_rows
from mapjob.errors import ConfigError, MapjobError
from mapjob.store import remote
from mapjob.store.remote import filesystem
from mapjob.store.storage import Storage


def files_below(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


# The same on both


def test_create_is_create_only(root):
    storage = Storage(root)
    assert storage.create("folder/one", b"first") is True
    assert storage.create("folder/one", b"second, and longer") is False
    assert storage.read("folder/one") == b"first"
    assert Storage(root).create("folder/one", b"third") is False


def test_what_is_created_is_seen_at_once(root):
    storage = Storage(root)
    assert storage.read("folder/one") is None
    assert storage.names("folder") == []
    storage.create("folder/one", b"1")
    assert storage.names("folder") == ["one"]
    storage.create("folder/two", b"")
    assert storage.names("folder") == ["one", "two"]
    assert Storage(root).names("folder") == ["one", "two"]
    assert storage.read("folder/two") == b""


def test_names_are_those_of_one_folder(root):
    storage = Storage(root)
    for name in ("runs/b", "runs/a", "runs/c/d", "runs/c/e/f"):
        storage.create(name, b"x")
    assert storage.names("runs") == ["a", "b", "c"]
    assert storage.names("runs/c") == ["d", "e"]
    assert storage.below("runs", "c").names("e") == ["f"]
    assert storage.names("nothing") == []


def test_read_of_missing_is_none(root):
    storage = Storage(root)
    assert storage.read("nothing") is None
    storage.create("folder/one", b"1")
    assert storage.read("folder/two") is None


def test_replace_puts_over_what_is_there(root):
    storage = Storage(root)
    storage.replace("folder/latest", b"a long first version")
    storage.replace("folder/latest", b"short")
    assert storage.read("folder/latest") == b"short"
    assert storage.names("folder") == ["latest"]


def test_below_is_the_same_place_by_a_longer_name(root):
    Storage(root).below("runs", "one").create("manifest.json", b"{}")
    assert Storage(root + "/").read("runs/one/manifest.json") == b"{}"


def test_bytes_come_back_whole(root):
    data = os.urandom(3_000_000)
    storage = Storage(root)
    assert storage.create("big", data)
    assert storage.read("big") == data


# On a local disk


def creators(root: str, mark: int, num: int = 8) -> list[int]:
    """This many threads create one name at the same moment; returns the marks of those that were told they did."""
    barrier = Barrier(num)

    def create(number: int) -> int | None:
        data = bytes([mark * num + number]) * 200_000
        barrier.wait()
        return mark * num + number if Storage(root).create("contested/object", data) else None

    with ThreadPoolExecutor(num) as threads:
        return [winner for winner in threads.map(create, range(num)) if winner is not None]


def check_one_winner(root: str, winners: list[int]) -> None:
    assert len(winners) == 1
    assert Storage(root).read("contested/object") == bytes(winners) * 200_000
    assert Storage(root).names("contested") == ["object"]


def test_one_of_many_threads_wins(tmp_path):
    check_one_winner(str(tmp_path / "out"), creators(str(tmp_path / "out"), 0))
    assert files_below(tmp_path) == ["out/contested/object"]


def test_one_of_many_processes_wins(tmp_path):
    root = str(tmp_path / "out")
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as processes:
        list(processes.map(abs, range(6)))  # all of them are up before the race
        winners = [*chain.from_iterable(processes.map(creators, [root] * 3, range(3)))]
    check_one_winner(root, winners)
    assert files_below(tmp_path) == ["out/contested/object"]


def test_no_temporary_file_stays_behind(tmp_path):
    storage = Storage(str(tmp_path))
    storage.create("one", b"1")
    storage.create("one", b"2")
    storage.replace("two", b"1")
    storage.replace("two", b"2")
    assert files_below(tmp_path) == ["one", "two"]


def test_files_may_be_read_by_others(tmp_path):
    storage = Storage(str(tmp_path))
    storage.create("one", b"1")
    storage.replace("two", b"2")
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("one", "two")} == {0o644}


def test_no_temporary_file_stays_behind_when_a_put_fails(tmp_path):
    (tmp_path / "taken" / "below").mkdir(parents=True)
    with pytest.raises(MapjobError):
        Storage(str(tmp_path)).replace("taken", b"a file over a folder")
    Storage(str(tmp_path)).create("taken", b"a file over a folder")
    assert files_below(tmp_path) == []


def test_names_at_the_root_are_those_of_what_is_stored(tmp_path):
    """Not the place where files are written before they have a name; object storage has none."""
    Storage(str(tmp_path)).create("one", b"1")
    assert Storage(str(tmp_path)).names() == ["one"]


def test_a_local_url_and_a_relative_path_are_the_same_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filesystem.cache_clear()  # it may hold this relative path from another working folder
    Storage(f"file://{tmp_path}/out").create("one", b"1")
    assert Storage("out").read("one") == Storage(f"{tmp_path}/out/").read("one") == b"1"


@pytest.fixture
def read_only(tmp_path):
    folder = tmp_path / "read_only"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        (folder / "probe").write_bytes(b"")
    except PermissionError:
        yield folder
    else:
        pytest.skip("this user may write into a read-only folder")
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("put", ["create", "replace"])
def test_a_read_only_folder_is_a_config_error_that_names_it(read_only, put):
    with pytest.raises(ConfigError, match="not allowed") as caught:
        getattr(Storage(str(read_only)), put)("below/one", b"1")
    assert str(read_only) in caught.value.where


@pytest.mark.parametrize("put", ["create", "replace"])
def test_a_file_where_a_folder_is_needed_is_an_error_that_names_it(tmp_path, put):
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(MapjobError) as caught:
        getattr(Storage(str(tmp_path / "out")), put)("scores/one", b"1")
    assert f"{tmp_path}/out/scores/one" in caught.value.where
    assert caught.value.do
    assert (tmp_path / "out").read_bytes() == b"a file"


@pytest.mark.parametrize("put", ["create", "replace"])
@pytest.mark.parametrize("place", ["/proc/mapjob", "/sys/mapjob"])
def test_a_place_where_not_even_root_can_write(place, put):
    if not Path(place).parent.is_dir():
        pytest.skip("no such file system here")
    with pytest.raises(MapjobError) as caught:
        getattr(Storage(place), put)("one", b"1")
    assert f"{place}/one" in caught.value.where


# On S3


def test_s3_without_the_bucket_is_an_error_that_names_it(bucket):
    with pytest.raises(MapjobError) as caught:
        Storage("s3://no-such-bucket-anywhere/out").create("one", b"1")
    assert "s3://no-such-bucket-anywhere/out/one" in caught.value.where


def test_a_corpus_on_s3_is_found_identified_and_read(bucket, tmp_path):
    table = pa.table({"prompt": ["p", "q"], "chosen": ["a", "a"], "rejected": ["b", "b"]})
    pq.write_table(table, tmp_path / "local.parquet")
    data = (tmp_path / "local.parquet").read_bytes()
    for name in ("corpus/a.parquet", "corpus/sub/b.parquet", "corpus/_temporary/c.parquet", "corpus/_SUCCESS"):
        Storage(bucket).create(name, data)
    made = make_plan(Input(path=f"{bucket}/corpus"), True, 100)
    assert [unit.file for unit in made.units] == [f"{bucket}/corpus/a.parquet", f"{bucket}/corpus/sub/b.parquet"]
    assert read_rows(made.units[1].file, 1, 2).to_pylist() == table.slice(1).to_pylist()
    # Same content, so same etag: the path tells them apart, and only other bytes give another identity.
    one, other = find_files(Input(path=f"{bucket}/corpus"), None).files
    assert one.identity == other.identity
    Storage(bucket).replace("corpus/a.parquet", data + data)
    filesystem(bucket)[0].invalidate_cache()  # a new run is a new process
    assert find_files(Input(path=f"{bucket}/corpus/a.parquet"), None).files[0].identity != one.identity


@pytest.mark.parametrize("url", ["s3:/bucket/out", "/home/me/s3:/bucket/out", "gs:/bucket", "hf:/org/name"])
def test_a_url_with_one_slash_is_no_folder_of_this_disk(url):
    with pytest.raises(ConfigError, match="one slash") as caught:
        Storage(url)
    assert "://, with two slashes" in caught.value.do


def test_a_folder_may_have_a_colon(tmp_path):
    assert Storage(f"{tmp_path}/2026-01:/s3:").create("one", b"1")


# Drivers whose errors are no OSErrors


class AwayFile(io.BytesIO):
    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def read(self, size=-1):
        raise self.error


class AwayFileSystem(MemoryFileSystem):
    """A storage whose next call raises what `error` is."""

    protocol = "away"
    root_marker = ""
    cachable = False
    error: Exception = RuntimeError()

    def cat_file(self, path, start=None, end=None, **options):
        raise self.error

    def _open(self, path, mode="rb", **options):
        return AwayFile(self.error)


fsspec.register_implementation("away", AwayFileSystem)


class AzureFileSystem(MemoryFileSystem):
    """Lists as adlfs does: of a path that is a file its name alone; the time of change has a name of its own."""

    protocol = "like-azure"

    def find(self, path, **options):
        return [path] if self.isfile(path) else {name: self.info(name) for name in super().find(path)}

    def info(self, path, **options):
        info = super().info(path)
        return {**info, "last_modified": info.pop("created", None)}


fsspec.register_implementation("like-azure", AzureFileSystem)


def test_sizes_and_times_of_a_file_and_of_a_folder_on_azure():
    storage = Storage("like-azure://output")
    storage.create("runs/one", b"12")
    for name in ("runs", "runs/one"):
        ((size, at),) = storage.files(name)
        assert size == 2
        assert abs(at - time.time()) < 60
    assert storage.files("none") == []


class HttpError(Exception):
    """As gcsfs has it: the status in `code`."""

    def __init__(self, code: int):
        super().__init__(f"answered {code}")
        self.code = code


class AuthenticationFailed(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "exit_code", "says"),
    [
        (HttpError(503), 4, "did not answer in 6 attempts"),
        (HttpError(429), 4, "did not answer in 6 attempts"),
        (HttpError(403), 2, "not allowed"),
        (HttpError(400), 2, "HttpError: answered 400"),
        (AuthenticationFailed("no identity"), 2, "not allowed"),
        (ValueError("no such account"), 2, "ValueError: no such account"),
        (EOFError("the connection ended"), 4, "did not answer in 6 attempts"),
    ],
)
def test_what_a_driver_raises_is_its_storages(monkeypatch, error, exit_code, says):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(AwayFileSystem, "error", error)
    for read in (
        lambda: Storage("away://here").read("name"),
        lambda: read_file("away://here/name", lambda file: file.read(), "unreadable", "name"),
    ):
        with pytest.raises(MapjobError, match=says) as caught:
            read()
        assert caught.value.exit_code == exit_code
        assert "away://here/name" in caught.value.where


def test_a_fault_of_the_call_is_ours(monkeypatch):
    monkeypatch.setattr(AwayFileSystem, "error", TypeError("no such option"))
    with pytest.raises(TypeError):
        Storage("away://here").read("name")


def test_a_driver_that_cannot_begin_says_why():
    class Refusing(MemoryFileSystem):
        protocol = "refusing"
        cachable = False

        def __init__(self, **options):
            raise ValueError("no account is named")

    fsspec.register_implementation("refusing", Refusing)
    with pytest.raises(ConfigError, match="ValueError: no account is named"):
        Storage("refusing://here")


def test_a_storage_of_a_driver_can_be_sent():
    storage = pickle.loads(pickle.dumps(Storage("memory://sent")))
    storage.create("name", b"1")
    assert Storage("memory://sent").read("name") == b"1"

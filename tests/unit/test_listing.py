"""What lies under a path: every file is read, or counted and named; tables with a log are refused."""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest

from mapjob.config.input import Input
from mapjob.corpus.files import CorpusFiles, find_files
from mapjob.corpus.listing import list_path, url_of
from mapjob.corpus.look import features_of
from mapjob.corpus.plan import make_plan, read_unit
from mapjob.errors import ConfigError, InputError
from mapjob.store.remote import filesystem
from mapjob.store.tables import to_parquet
from tests.unit.test_plan import pairs, write


def found(path: str | list[str]) -> CorpusFiles:
    return find_files(Input(path=path), None)


def names(path: str | list[str]) -> list[str]:
    return [file.name for file in found(path).files]


def test_every_ending_of_parquet_is_read_in_any_case(tmp_path):
    endings = ("a.parquet", "b.PARQUET", "c.parq", "d.pq", "e.Pq")
    for name in endings:
        write(tmp_path / name, pairs(1))
    assert names(str(tmp_path)) == list(endings)
    assert found(str(tmp_path)).notes == ()


def test_what_is_not_read_is_counted_and_named_by_kind(tmp_path):
    for name in ("a.parquet", "_tmp/b.parquet", ".c.parquet"):
        write(tmp_path / name, pairs(1))
    for name in ("README.md", ".gitattributes", "LICENSE", "_SUCCESS", "notes.txt", "more.txt", "Makefile"):
        (tmp_path / name).write_text("")
    for number in range(5):
        (tmp_path / f"r{number}.jsonl").write_text("{}")
    assert names(str(tmp_path)) == ["a.parquet"]
    assert found(str(tmp_path)).notes == (
        "passed over: 2 hidden files (.c.parquet, _tmp/b.parquet)",
        "passed over: 1 file without an ending (Makefile)",
        "passed over: 2 .txt files (more.txt, notes.txt)",
        "beside the data: .gitattributes, LICENSE, README.md, …",
        "passed over: 5 .jsonl files beside Parquet (r0.jsonl, r1.jsonl, r2.jsonl, …)",
    )


def test_a_folder_without_rows_says_what_it_holds(tmp_path):
    (tmp_path / "weights.bin").write_text("")
    with pytest.raises(ConfigError, match=r"no file here holds rows .*1 \.bin file \(weights\.bin\)"):
        found(str(tmp_path))


def test_names_are_below_the_path_and_whole_for_several_paths(tmp_path):
    for name in ("x/one/a.parquet", "y/b.parquet"):
        write(tmp_path / name, pairs(1))
    assert names(f"{tmp_path}/x") == ["one/a.parquet"]
    assert names(f"{tmp_path}/x/one/a.parquet") == ["a.parquet"]
    assert names(f"{tmp_path}/*/*.parquet") == ["y/b.parquet"]
    assert names([f"{tmp_path}/x", f"{tmp_path}/y"]) == [f"{tmp_path}/x/one/a.parquet", f"{tmp_path}/y/b.parquet"]


def test_a_folder_that_a_glob_matches_is_read(tmp_path):
    write(tmp_path / "2024-01" / "a.parquet", pairs(1))
    write(tmp_path / "2025-01" / "b.parquet", pairs(1))
    assert names(f"{tmp_path}/2024*") == ["2024-01/a.parquet"]


# Links


def test_links_to_folders_are_followed_once_and_circles_are_named(tmp_path):
    write(tmp_path / "elsewhere" / "deep" / "b.parquet", pairs(1))
    write(tmp_path / "corpus" / "real" / "a.parquet", pairs(1))
    root = tmp_path / "corpus"
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root / "real")
    (root / "real" / "circle").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "elsewhere")
    assert names(str(root)) == ["linked/deep/b.parquet", "real/a.parquet"]
    (note,) = found(str(root)).notes
    assert note == ("passed over: 4 links to a folder that is read anyway (again, linked/deep/back, real/circle, …)")


def test_a_glob_follows_links_too(tmp_path):
    write(tmp_path / "elsewhere" / "b.parquet", pairs(1))
    write(tmp_path / "corpus" / "real" / "a.parquet", pairs(1))
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "real" / "circle").symlink_to(tmp_path / "corpus")
    for pattern in ("*/*.parquet", "**/*.parquet", "**", "*"):
        assert names(f"{tmp_path}/corpus/{pattern}") == ["linked/b.parquet", "real/a.parquet"], pattern


def test_a_linked_file_is_read_as_the_hubs_cache_keeps_them(tmp_path):
    blob = write(tmp_path / "blobs" / "0123", pairs(1))
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "a.parquet").symlink_to(blob)
    assert names(str(tmp_path / "snapshot")) == ["a.parquet"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_read_is_no_empty_folder(tmp_path):
    write(tmp_path / "a.parquet", pairs(1))
    (tmp_path / "closed").mkdir(mode=0o000)
    with pytest.raises(ConfigError, match="not allowed"):
        found(str(tmp_path))


# Tables with a log

LOGS = {
    "Delta": "_delta_log/00000000000000000000.json",
    "Iceberg": "metadata/00000-6d2e.metadata.json",
    "Hudi": ".hoodie/hoodie.properties",
}


@pytest.mark.parametrize("table", LOGS)
@pytest.mark.parametrize(
    "path", ["table", ".", "table/date=2024-01-01", "table/date=2024-01-01/*.parquet", "*/*/*.parquet"]
)
def test_a_table_with_a_log_is_refused_from_every_side(tmp_path, table, path):
    write(tmp_path / "table" / "date=2024-01-01" / "part-0.parquet", pairs(1))
    (tmp_path / "table" / LOGS[table]).parent.mkdir()
    (tmp_path / "table" / LOGS[table]).write_text("{}")
    for way in (path, "table/date=2024-01-01/part-0.parquet"):
        with pytest.raises(InputError, match=f"table of {table}") as caught:
            found(str(tmp_path / way))
        assert "plain Parquet" in caught.value.do


def test_a_folder_called_metadata_is_no_table(tmp_path):
    write(tmp_path / "data" / "a.parquet", pairs(1))
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "authors.json").write_text("{}")
    assert names(str(tmp_path)) == ["data/a.parquet"]


# Names of the hub


def test_a_local_path_wins_over_a_name_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert url_of("org/name") == "hf://datasets/org/name"
    assert url_of("org/name@v1.0") == "hf://datasets/org/name@v1.0"
    for path in ("org", "org/name/sub", "/org/name", "./org/name", "org/*", "s3://org/name"):
        assert url_of(path) == path
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert url_of("org/name") == "org/name"


def test_without_the_hub_a_path_that_is_not_there_says_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="no local path data/pairs, and HF_HUB_OFFLINE"):
        list_path("data/pairs")


# On S3


@pytest.mark.parametrize("server", ["bucket", "swift_bucket"])
def test_keys_with_two_slashes_are_read(request, server):
    bucket = request.getfixturevalue(server)
    fs, root = filesystem(f"{bucket}/corpus")
    data = to_parquet(pairs(1))
    for name in ("a.parquet", "/b.parquet", "sub//c.parquet", "sub/d.parquet"):
        fs.pipe_file(f"{root}/{name}", data)
    keys = ["/b.parquet", "a.parquet", "sub//c.parquet", "sub/d.parquet"]
    assert names(f"{bucket}/corpus") == keys
    plan = make_plan(Input(path=f"{bucket}/corpus"), True, 100)
    assert [read_unit(unit).num_rows for unit in plan.units] == [1, 1, 1, 1]


@pytest.mark.parametrize("table", LOGS)
def test_a_table_on_s3_is_refused(bucket, table):
    fs, root = filesystem(f"{bucket}/lake/table")
    fs.pipe_file(f"{root}/year=2024/a.parquet", to_parquet(pairs(1)))
    fs.pipe_file(f"{root}/{LOGS[table]}", b"{}")
    for path in ("", "/table", "/table/year=2024", "/*/year=2024/*.parquet", "/table/year=2024/a.parquet"):
        with pytest.raises(InputError, match=f"table of {table}"):
            found(f"{bucket}/lake{path}")


def test_listing_on_s3_takes_few_requests(bucket):
    fs, root = filesystem(f"{bucket}/corpus")
    for number in range(30):
        fs.pipe_file(f"{root}/date={number}/a.parquet", to_parquet(pairs(1)))
    calls = []
    with pytest.MonkeyPatch.context() as patch:

        async def counted(method, *given, **options):
            calls.append(method)
            return await call_inside(method, *given, **options)

        call_inside = fs._call_s3
        patch.setattr(fs, "_call_s3", counted)
        assert len(list_path(f"{bucket}/corpus").files) == 30
    assert len(calls) <= 8, calls


def test_a_path_that_is_a_relative_folder(tmp_path, monkeypatch):
    write(tmp_path / "data" / "a.parquet", pairs(1))
    monkeypatch.chdir(tmp_path)
    assert names("data") == names("./data/") == ["a.parquet"]
    assert Path(found("data").files[0].path) == tmp_path / "data" / "a.parquet"


@pytest.mark.parametrize("written", [b"no JSON", b"[]", b'{"info": 3}', b'{"info": {"features": 3}}'])
def test_features_that_cannot_be_read_are_left_out_with_a_warning(caplog, written):
    assert features_of(pa.schema([("a", pa.string())], {b"huggingface": written})) == {}
    assert "cannot be read" in caplog.text
    caplog.clear()
    assert features_of(pa.schema([("a", pa.string())])) == {}
    assert not caplog.records


def test_a_file_at_the_top_of_a_web_server_is_listed(tmp_path: Path) -> None:
    """No host is asked that the address does not name: looking for tables above the file ends at the server."""
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.parquet"
        (file,) = list_path(url).files
        server.shutdown()
    assert (file.url, file.name, file.size) == (url, "a.parquet", 4)

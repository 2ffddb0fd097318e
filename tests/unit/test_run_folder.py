"""The run folder: tables adopted or refused, the manifest as the commit, latest.json, and finding a run again."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.errors import ConfigError, MapjobError
from mapjob.store import run_folder
from mapjob.store.output import Output
from mapjob.store.run_folder import UNITS, FinishedRun, RunFolder, has_units, open_run, path_of, promoted_id, read_units
from mapjob.store.storage import Storage
from mapjob.store.tables import seal

TABLE = pa.table(
    {"pair_id": ["a", "b"], "score": [1.5, float("nan")], "kind": pa.array(["x", "x"]).dictionary_encode()}
)


def test_the_same_table_of_an_earlier_attempt_is_adopted(root):
    folder = RunFolder(root, "map-1")
    folder.put_table("selected/train-00000-of-00001.parquet", TABLE)
    folder.put_table("selected/train-00000-of-00001.parquet", TABLE)
    assert folder.tables("selected") == ["selected/train-00000-of-00001.parquet"]
    read_back = folder.read_table("selected/train-00000-of-00001.parquet", ["pair_id", "kind"])
    assert read_back.to_pylist() == TABLE.select(["pair_id", "kind"]).to_pylist()


def test_an_equal_table_in_other_bytes_is_adopted(tmp_path):
    """Another version of the Parquet writer gives other bytes for the same rows."""
    table = TABLE.select(["pair_id"])
    folder = RunFolder(str(tmp_path), "map-1")
    folder.put_table("errors/part-00000.parquet", table)
    file = tmp_path / "runs" / "map-1" / "errors" / "part-00000.parquet"
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="none")
    file.write_bytes(seal(buffer.getvalue()))
    folder.put_table("errors/part-00000.parquet", table)
    assert pq.read_metadata(file).row_group(0).column(0).compression == "UNCOMPRESSED"


@pytest.mark.parametrize(
    "other",
    [
        TABLE.slice(1),
        TABLE.take(pa.array([1, 0])),
        TABLE.rename_columns(["pair_id", "value", "kind"]),
        TABLE.drop(["kind"]),
    ],
)
def test_a_different_table_of_an_earlier_attempt_is_refused(root, other):
    folder = RunFolder(root, "map-1")
    folder.put_table("selected/a.parquet", other)
    with pytest.raises(MapjobError, match="another file") as caught:
        folder.put_table("selected/a.parquet", TABLE)
    assert caught.value.where == f"{root}/runs/map-1/selected/a.parquet"
    assert repr(folder.read_table("selected/a.parquet").to_pylist()) == repr(other.to_pylist())


def test_damaged_remains_of_an_earlier_attempt_are_refused_by_name(tmp_path):
    folder = RunFolder(str(tmp_path), "map-1")
    folder.put_table("selected/a.parquet", TABLE)
    (tmp_path / "runs" / "map-1" / "selected" / "a.parquet").write_bytes(b"not Parquet")
    with pytest.raises(MapjobError) as caught:
        folder.put_table("selected/a.parquet", TABLE)
    assert "runs/map-1/selected/a.parquet" in caught.value.where


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(MapjobError, match="missing") as caught:
        RunFolder(str(tmp_path), "map-1").read_table("selected/a.parquet")
    assert caught.value.where.endswith("runs/map-1/selected/a.parquet")


def test_the_manifest_is_the_commit_and_never_changes(root):
    folder = RunFolder(root, "map-1")
    folder.put_table("selected/a.parquet", TABLE)
    folder.put_text("README.md", "# card")
    assert folder.read_manifest() is None
    first = folder.commit({"run_id": "map-1", "counts": {"rows": 2}})
    assert first["counts"] == {"rows": 2}
    assert first["finished_at"]
    second = RunFolder(root, "map-1").commit({"run_id": "map-1", "counts": {"rows": 3}})
    assert second == first == RunFolder(root, "map-1").read_manifest()


IDS = ["b", "a", "c", "b"]


def commit_units(root: str, ids: list[str]) -> FinishedRun:
    folder = RunFolder(root, "map-1")
    return FinishedRun(folder, folder.commit({"run_id": "map-1", "config": {"output": {"path": root}}, "units": ids}))


@pytest.mark.parametrize("bound", [3, 4])
def test_the_list_of_many_units_lies_beside_the_manifest(root, bound, monkeypatch):
    monkeypatch.setattr(run_folder, "MOST_UNITS", bound)
    folder = RunFolder(root, "map-1")
    folder.put_units(IDS)  # as an attempt that was killed
    manifest = commit_units(root, folder.put_units(IDS)).manifest
    assert isinstance(manifest["units"], list) == (bound == 4) == (UNITS not in folder.files())
    assert read_units(manifest) == IDS
    assert has_units(manifest, IDS)
    assert not any(has_units(manifest, other) for other in (IDS[::-1], IDS[1:], []))


def test_another_list_of_units_is_refused_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "MOST_UNITS", 0)
    run = commit_units(str(tmp_path), RunFolder(str(tmp_path), "map-1").put_units(IDS))
    with pytest.raises(MapjobError, match="another file"):
        run.folder.put_units(IDS[1:])
    (tmp_path / "runs" / "map-1" / UNITS).unlink()
    with pytest.raises(MapjobError, match="missing"):
        read_units(run.manifest)
    run.folder.put_units(IDS[1:])
    with pytest.raises(MapjobError, match="other units") as caught:
        read_units(run.manifest)
    assert caught.value.where == f"{tmp_path}/runs/map-1/{UNITS}"


def latest(root: str) -> dict:
    return json.loads(Storage(root).read("latest.json"))


def finish(root: str, run_id: str, finished_at: str, **more: object) -> FinishedRun:
    """A run that was committed at this time."""
    manifest = {"run_id": run_id, "finished_at": finished_at, "config": {"output": {"path": root}}, **more}
    Storage(root).create(f"runs/{run_id}/manifest.json", json.dumps(manifest).encode())
    return FinishedRun(RunFolder(root, run_id), manifest)


def test_only_a_promotion_moves_latest_and_no_clock_matters(root):
    newer = finish(root, "newer", "2999-02-01T00:00:00+00:00")
    RunFolder(root, "map-1").commit({})
    assert Storage(root).read("latest.json") is None
    for run in (newer.folder, RunFolder(root, "map-1"), newer.folder):
        run.promote()
        assert latest(root) == {"run_id": run.run_id, "run_path": f"runs/{run.run_id}"}
        assert promoted_id(root) == run.run_id


def test_runs_of_one_second_keep_their_order(tmp_path):
    """Another alpha ranks in less than a second."""
    names = [f"map-{i}" for i in (5, 3, 9, 1, 7)]
    for name in names:
        RunFolder(str(tmp_path), name).commit({"config": {}})
    finished, unfinished = Output(str(tmp_path)).list_runs()
    assert [run.folder.run_id for run in finished] == names
    assert unfinished == []


def test_a_run_is_found_by_id_start_name_or_folder(tmp_path):
    out = str(tmp_path)
    for run_id, name in (("map-12", "nightly"), ("map-123", "twin"), ("map-4", "twin"), ("random-9", "map-4")):
        finish(out, run_id, "2026-01-01T00:00:00+00:00", name=name)
    (tmp_path / "runs" / "map-unfinished").mkdir()
    by_id = {"map-12": "map-12", "map-123": "map-123", "map-4": "map-4"}
    others = {
        "rand": "random-9",
        "nightly": "map-12",
        f"{out}/runs/map-4/": "map-4",
        f"{out}/../{tmp_path.name}/runs/map-12": "map-12",
    }
    for which, run_id in (by_id | others).items():
        assert Output(out).find_run(which).folder.run_id == run_id, which
    refused = {"map-1": "2 runs", "twin": "2 runs", "nigtly": "did you mean nightly", "map-unf": "no run"}
    refused |= {"map-unfinished": "not finished", f"{out}/runs/map-5": "did you mean map-4"}
    refused |= {"/another/runs/map-12": "another output", "s3://another/runs/map-12": "another output"}
    for which, what in refused.items():
        with pytest.raises(ConfigError, match=what):
            Output(out).find_run(which)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[1]", b"{", *(b'{"run_id": %s}' % one for one in (b"null", b'""', b'"../x"', b'"\\u0000"'))]
)
def test_a_latest_json_that_says_nothing_asks_for_a_promotion(tmp_path, text):
    finish(str(tmp_path), "one", "2026-01-01T00:00:00+00:00")
    Storage(str(tmp_path)).replace("latest.json", text)
    with pytest.raises(ConfigError, match="damaged") as caught:
        open_run(str(tmp_path))
    assert "mapjob promote" in caught.value.do


def test_an_output_whose_promoted_run_is_gone_or_was_never_there_asks_for_one(tmp_path):
    run = finish(str(tmp_path), "one", "2026-01-01T00:00:00+00:00")
    with pytest.raises(ConfigError, match="no run of this output is promoted") as caught:
        open_run(str(tmp_path))
    assert "mapjob promote" in caught.value.do
    run.folder.promote()
    (tmp_path / "runs" / "one" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="the promoted run one is gone") as caught:
        open_run(str(tmp_path))
    assert "mapjob promote" in caught.value.do


# Opening a run


def id_of(path: str) -> str:
    return open_run(path).folder.run_id


def test_open_run_takes_the_run_folder_or_the_output_folder(root):
    older = finish(root, "older", "2026-01-01T00:00:00+00:00")
    newer = finish(root, "newer", "2026-02-01T00:00:00+00:00")
    newer.folder.promote()
    assert id_of(root) == id_of(root + "/") == "newer"
    assert id_of(older.folder.url) == id_of(older.folder.url + "/") == "older"
    assert open_run(older.folder.url).manifest == older.manifest


def test_a_run_is_where_its_folder_is_now(tmp_path):
    finish(str(tmp_path / "out"), "one", "2026-01-01T00:00:00+00:00")
    (tmp_path / "out").rename(tmp_path / "moved")
    manifest = open_run(str(tmp_path / "moved" / "runs" / "one")).manifest
    assert path_of(manifest) == str(tmp_path / "moved" / "runs" / "one")


def test_open_run_takes_a_relative_path(tmp_path, monkeypatch):
    finish(str(tmp_path / "out"), "one", "2026-01-01T00:00:00+00:00").folder.promote()
    monkeypatch.chdir(tmp_path)
    assert id_of("out") == id_of("out/runs/one") == "one"
    monkeypatch.chdir(tmp_path / "out" / "runs" / "one")
    assert id_of(".") == "one"


def test_open_run_below_a_folder_that_is_itself_called_runs(tmp_path):
    finish(str(tmp_path / "runs" / "nightly"), "one", "2026-01-01T00:00:00+00:00").folder.promote()
    assert id_of(str(tmp_path / "runs" / "nightly")) == "one"
    assert id_of(str(tmp_path / "runs" / "nightly" / "runs" / "one")) == "one"


@pytest.mark.parametrize(
    "path", ["nothing", "out", "out/runs", "out/runs/other", "out/runs/unfinished", "out/runs/one/manifest.json"]
)
def test_open_run_of_anything_else_is_a_config_error_that_names_it(tmp_path, path):
    finish(str(tmp_path / "out"), "one", "2026-01-01T00:00:00+00:00")
    RunFolder(str(tmp_path / "out"), "unfinished").put_text("README.md", "# card")
    with pytest.raises(ConfigError) as caught:
        open_run(str(tmp_path / path))
    assert str(tmp_path / path) in caught.value.where


def test_open_run_of_an_unknown_kind_of_url():
    with pytest.raises(ConfigError):
        open_run("nosuchstore://bucket/out")

"""A server that ignores If-None-Match, for real: found out and refused, or written to under names of the content."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mapjob.config import Config, parse_config
from mapjob.errors import ConfigError, MapjobError
from mapjob.job.run import rank_job
from mapjob.store.output import Output
from mapjob.store.run_folder import open_run, path_of
from mapjob.store.score_store import ScoreStore
from mapjob.store.storage import Storage
from tests.crash.standing import standing
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run

FINGERPRINT, UNIT = "f" * 16, "a" * 20


def columns(*rewards: float) -> pa.Table:
    return pa.table({"rewards": [[reward, -reward] for reward in rewards]})


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("content")
    corpus = write_corpus(folder / "corpus", make_pairs(20))
    return config_tree(corpus, folder / "unused", make_policy(folder / "policy"), make_reward(folder / "reward"))


def into(tree: dict[str, Any], path: str | Path, unconditional: str = "content_names", **more: Any) -> Config:
    return parse_config({**tree, "output": {"path": str(path), "unconditional": unconditional}, **more})


def selected(manifest: dict[str, Any]) -> dict[str, bytes]:
    """The files of selected/ and errors/ of a run."""
    folder = Storage(path_of(manifest))
    return {
        f"{part}/{name}": folder.read(f"{part}/{name}")
        for part in ("selected", "errors")
        for name in folder.names(part)
    }


def test_the_server_is_found_out_before_anything_is_written(tree: dict[str, Any], careless_bucket: str) -> None:
    with pytest.raises(ConfigError, match="ignores If-None-Match") as caught:
        run(into(tree, f"{careless_bucket}/out", "refuse"))
    assert "output.unconditional: content_names" in caught.value.do
    assert Storage(f"{careless_bucket}/out").files("") == []


def test_the_result_is_that_of_a_run_elsewhere(tree: dict[str, Any], careless_bucket: str, tmp_path: Path) -> None:
    elsewhere = run(into(tree, tmp_path, "refuse"))
    config = into(tree, f"{careless_bucket}/out")
    manifest = run(config)
    assert selected(manifest) == selected(elsewhere)
    assert manifest["run_id"].startswith(f"{elsewhere['run_id']}-")
    assert open_run(config.output.path).manifest == manifest
    before = standing(config)
    assert run(config) == manifest
    assert standing(config) == before
    other = rank_job(into(tree, f"{careless_bucket}/out", selection={"alpha": 2.5}))
    assert other["run_id"] != manifest["run_id"]
    assert not [found for found in Output(config.output.path).unnamed() if found.name.startswith("scores")]


def test_runs_from_different_scores_never_meet_in_one_folder(tree: dict[str, Any], careless_bucket: str) -> None:
    """Another machine's last digits: its column file has a name of its own, and what comes of it has a folder."""
    config = into(tree, f"{careless_bucket}/out")
    first = run(config)
    published = selected(first)
    store, reward = ScoreStore(config.output.path, content_names=True), first["fingerprints"]["reward"]
    unit, (name,) = next(iter(store.files(reward).items()))
    while store.files(reward)[unit][0] == name:  # until one comes before it by name
        table = store.read(reward, unit)
        moved = [
            [value + 1e-6 * len(store.files(reward)[unit]) for value in row] for row in table["rewards"].to_pylist()
        ]
        place, column = table.column_names.index("rewards"), pa.array(moved, table.schema.field("rewards").type)
        assert store.commit(reward, unit, table.set_column(place, "rewards", column))
    assert name in store.files(reward)[unit]
    assert run(config) == first, "a finished run stands, whatever comes later"

    Storage(path_of(first)).remove("manifest.json")  # as if it had been killed just before
    second = run(config)
    assert second["run_id"] != first["run_id"]
    assert selected(first) == published != selected(second)
    assert open_run(config.output.path).run_id == second["run_id"]


def test_writers_that_disagree_about_the_rows_are_told(careless_bucket: str) -> None:
    store = ScoreStore(f"{careless_bucket}/out", content_names=True)
    assert store.commit(FINGERPRINT, UNIT, columns(1.0, 2.0))
    assert not store.commit(FINGERPRINT, UNIT, columns(1.0, 2.0)), "the same content is the same file"
    store.commit(FINGERPRINT, UNIT, columns(1.0))
    with pytest.raises(MapjobError, match="disagree about the rows"):
        store.read(FINGERPRINT, UNIT)


def test_the_first_by_name_is_read_in_whatever_order_they_came(tmp_path: Path) -> None:
    tables = [columns(1.0 + number) for number in range(4)]
    stores = [ScoreStore(str(tmp_path / name), content_names=True) for name in ("one", "other")]
    for store, order in zip(stores, (tables, tables[::-1])):
        for table in order:
            assert store.commit(FINGERPRINT, UNIT, table)
    assert stores[0].read(FINGERPRINT, UNIT).equals(stores[1].read(FINGERPRINT, UNIT))

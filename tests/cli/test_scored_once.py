"""What was scored once is not scored again, whatever became of the corpus's files: only new rows meet a model."""

import json
import os
import random
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mapjob as api
from mapjob.config.load import parse_config
from mapjob.errors import ConfigError
from mapjob.store.remote import filesystem
from mapjob.store.storage import Storage
from tests import without_ray
from tests.fakes import config_tree, make_pairs, make_policy, make_reward
from tests.without_ray import run

NUM_PAIRS, NUM_SHARDS = 200, 4
BROKEN = {17, 90, 91}
COLUMNS = ("implicit_margin", "reward_margin")  # which depend on no other row
# In such a file two values that change places leave the size as it is.
PLAIN = {"row_group_size": 25, "compression": "none", "use_dictionary": False, "write_statistics": False}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return make_policy(folder / "policy"), make_reward(folder / "reward")


def rows_of(num: int, first: int = 0) -> list[dict[str, Any]]:
    rows = make_pairs(first + num, seed=5)[first:]
    return [{**row, "chosen": None} if first + i in BROKEN else row for i, row in enumerate(rows)]


def write(folder: Path, rows: list[dict[str, Any]], shards: int = NUM_SHARDS, **options: Any) -> Path:
    """The rows in shards that are as equal as can be."""
    folder.mkdir(parents=True, exist_ok=True)
    edges = [len(rows) * i // shards for i in range(shards + 1)]
    for i, (start, stop) in enumerate(pairwise(edges)):
        pq.write_table(pa.Table.from_pylist(rows[start:stop]), folder / f"part-{i:03}.parquet", **options)
    return folder


@pytest.fixture
def world(tmp_path: Path, models: tuple[Path, Path]) -> dict[str, Any]:
    """The run file of a corpus that has been run."""
    corpus = write(tmp_path / "corpus", rows_of(NUM_PAIRS), row_group_size=25)
    tree = config_tree(corpus, tmp_path / "out", *models)
    tree["execution"]["rows_per_unit"] = 30
    tree["max_error_rate"] = 0.1
    return tree


def again(tree: dict[str, Any], corpus: Path | str | None = None, **sections: Any) -> dict[str, Any]:
    """The manifest of a run of this corpus."""
    source = {} if corpus is None else {"input": {**tree["input"], "path": str(corpus)}}
    return run(parse_config({**tree, **source, **sections}))


def scores(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Every ranked pair, by its id."""
    table = api.load_scores(str(Path(manifest["config"]["output"]["path"]) / "runs" / manifest["run_id"]))
    return sorted(table.to_pylist(), key=lambda row: row["pair_id"])


def same_numbers(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two runs ranked and selected the same pairs with the same numbers, to the last bit."""
    return scores(one) == scores(other)


def copy_tree(corpus: Path, work: Path) -> Path:
    return shutil.copytree(corpus, work / "copy")


def move(corpus: Path, work: Path) -> Path:
    return corpus.rename(work / "moved")


def touch(corpus: Path, work: Path) -> Path:
    for file in corpus.iterdir():
        os.utime(file, (1_000_000_000, 1_000_000_000))
    return corpus


def rename_the_shards(corpus: Path, work: Path) -> Path:
    for file in corpus.iterdir():
        file.rename(file.with_name(f"shard_{9 - int(file.stem[-1])}.parquet"))
    return corpus


def other_shard_sizes(corpus: Path, work: Path) -> Path:
    return write(work / "other", rows_of(NUM_PAIRS), shards=3)


def one_compacted_file(corpus: Path, work: Path) -> Path:
    return write(work / "other", rows_of(NUM_PAIRS), shards=1)


def other_row_groups(corpus: Path, work: Path) -> Path:
    return write(work / "other", rows_of(NUM_PAIRS), row_group_size=7)


def another_order(corpus: Path, work: Path) -> Path:
    rows = rows_of(NUM_PAIRS)
    random.Random(1).shuffle(rows)
    return write(work / "other", rows)


def json_lines(corpus: Path, work: Path) -> Path:
    (work / "other").mkdir()
    lines = [json.dumps(row) for row in rows_of(NUM_PAIRS)]
    (work / "other" / "all.jsonl").write_text("\n".join(lines) + "\n")
    return work / "other"


def a_part(corpus: Path, work: Path) -> Path:
    return write(work / "other", rows_of(110, 40), shards=2)


CHANGES = [copy_tree, move, touch, rename_the_shards, other_shard_sizes, one_compacted_file, other_row_groups]
CHANGES += [another_order, json_lines]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_same_rows_elsewhere_or_cut_otherwise_meet_no_model(
    world: dict[str, Any], tmp_path: Path, change: Callable[[Path, Path], Path]
) -> None:
    first = again(world)
    before = scores(first)
    assert first["spent"]["scored_rows"] == NUM_PAIRS - len(BROKEN)
    second = again(world, change(tmp_path / "corpus", tmp_path))
    assert second["run_id"] != first["run_id"], "another folder of texts, or files that were touched"
    assert second["spent"]["scored_rows"] == 0
    assert second["counts"]["by_reason"] == first["counts"]["by_reason"]
    assert scores(second) == before


def test_a_corpus_that_another_one_contains_meets_no_model(world: dict[str, Any], tmp_path: Path) -> None:
    whole = {row["pair_id"]: row for row in scores(again(world))}
    part = again(world, a_part(tmp_path, tmp_path))
    assert part["spent"]["scored_rows"] == 0
    assert part["counts"]["rows"] == 110
    assert all(row[name] == whole[row["pair_id"]][name] for row in scores(part) for name in COLUMNS)


def test_a_corpus_on_s3_takes_the_scores_of_its_copy_on_disk(
    world: dict[str, Any], tmp_path: Path, bucket: str
) -> None:
    first = again(world)
    fs, root = filesystem(f"{bucket}/corpus")
    for file in (tmp_path / "corpus").iterdir():
        fs.pipe_file(f"{root}/{file.name}", file.read_bytes())
    second = again(world, f"{bucket}/corpus")
    assert second["spent"]["scored_rows"] == 0
    assert same_numbers(first, second)


def test_of_new_rows_spread_over_all_shards_exactly_those_meet_the_models(
    world: dict[str, Any], tmp_path: Path
) -> None:
    before = {row["pair_id"]: row for row in scores(again(world))}
    rows = rows_of(NUM_PAIRS)
    new = rows_of(8, NUM_PAIRS)
    for i, row in enumerate(new):
        rows.insert(25 * i + i % 3, row)
    second = again(world, write(tmp_path / "more", rows))
    assert second["spent"]["scored_rows"] == len(new)
    assert second["counts"]["rows"] == NUM_PAIRS + len(new)
    after = {row["pair_id"]: row for row in scores(second)}
    assert len(after.keys() - before.keys()) == len(new)
    assert all(after[pair_id][name] == row[name] for pair_id, row in before.items() for name in COLUMNS)
    # As if there had been nothing before, but for the rounding of another batch.
    fresh = scores(again({**world, "output": {"path": str(tmp_path / "fresh")}}, tmp_path / "more"))
    for one, other in zip(fresh, sorted(after.values(), key=lambda row: row["pair_id"]), strict=True):
        assert all(one[name] == pytest.approx(other[name], abs=1e-4) for name in COLUMNS)


def test_one_label_turned_round_in_a_file_of_the_same_size_and_time_is_noticed(
    world: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path / "corpus", rows_of(NUM_PAIRS), **PLAIN)
    first = again(world)
    before = {row["pair_id"]: row for row in scores(first)}
    turn_one_label(tmp_path / "corpus" / "part-001.parquet")
    second = again(world)
    assert second["run_id"] != first["run_id"]
    assert second["spent"]["scored_rows"] == 1
    after = {row["pair_id"]: row for row in scores(second)}
    (gone,), (come,) = before.keys() - after.keys(), after.keys() - before.keys()
    assert all(before[gone][name] == pytest.approx(-after[come][name], abs=1e-4) for name in COLUMNS)


def turn_one_label(file: Path) -> None:
    """Exchange the sides of one row; the file keeps its size and its time of change."""
    at = file.stat()
    rows = pq.read_table(file).to_pylist()
    rows[7]["chosen"], rows[7]["rejected"] = rows[7]["rejected"], rows[7]["chosen"]
    pq.write_table(pa.Table.from_pylist(rows), file, **PLAIN)
    assert file.stat().st_size == at.st_size
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))


def test_a_policy_that_is_new_is_scored_on_all_rows_and_the_reward_model_on_none(
    world: dict[str, Any], tmp_path: Path
) -> None:
    again(world)
    policy = make_policy(tmp_path / "other-policy", seed=9)
    models = {**world["models"], "policy": {**world["models"]["policy"], "path": str(policy)}}
    second = again(world, other_shard_sizes(tmp_path, tmp_path), models=models)
    assert second["spent"]["scored_rows"] == NUM_PAIRS - len(BROKEN)
    assert second["spent"]["tokens"].keys() == {"policy"}


def test_a_model_whose_rows_are_all_stored_is_not_loaded(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[list[str]] = []
    score = without_ray.score

    def watched(config: Any, corpus: Any, derived: Any, scorers: Any, *rest: Any) -> Any:
        loaded.append([scorer.name for scorer in scorers])
        return score(config, corpus, derived, scorers, *rest)

    monkeypatch.setattr(without_ray, "score", watched)
    world["selection"] = {"metric": "dcrm"}  # by edit distances, which are computed for every unit anew
    again(world)
    again(world, other_shard_sizes(tmp_path, tmp_path))
    policy = make_policy(tmp_path / "other-policy", seed=9)
    models = {**world["models"], "policy": {**world["models"]["policy"], "path": str(policy)}}
    again(world, write(tmp_path / "third", rows_of(NUM_PAIRS), shards=5), models=models)
    assert loaded == [["policy", "reward"], [], ["policy"]]


def test_scores_of_touched_files_are_read_by_whoever_may_not_write_the_output(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = again(world)
    before = scores(first)
    touch(tmp_path / "corpus", tmp_path)

    def refuse(storage: Storage, name: str, data: bytes) -> bool:
        raise ConfigError("not allowed", name, "check the rights")

    monkeypatch.setattr(Storage, "create", refuse)
    assert scores(first) == before


def test_another_size_of_units_cuts_files_anew_and_scores_nothing(world: dict[str, Any]) -> None:
    first = again(world)
    second = again(world, execution={**world["execution"], "rows_per_unit": 7})
    assert len(second["units"]) > len(first["units"])
    assert second["spent"]["scored_rows"] == 0
    assert same_numbers(first, second)
    third = again(world, execution={**world["execution"], "rows_per_unit": 7}, selection={"alpha": 2.5})
    assert len(scores(third)) == len(scores(first))


def test_one_model_at_a_time_takes_the_same_rows_from_the_store(world: dict[str, Any], tmp_path: Path) -> None:
    first = again(world)
    rows = rows_of(NUM_PAIRS) + rows_of(3, NUM_PAIRS)
    execution = {**world["execution"], "schedule": "one_by_one"}
    second = again(world, write(tmp_path / "more", rows, shards=3), execution=execution)
    assert second["spent"]["scored_rows"] == 3
    assert {row["pair_id"] for row in scores(first)} < {row["pair_id"] for row in scores(second)}


def test_another_group_column_scores_nothing_again(world: dict[str, Any]) -> None:
    first = again(world)
    second = again({**world, "input": {**world["input"], "columns": {"group": "source"}}})
    assert second["run_id"] != first["run_id"]
    assert second["spent"]["scored_rows"] == 0


def test_two_files_of_the_same_rows_are_scored_once(world: dict[str, Any], tmp_path: Path) -> None:
    shutil.copy(tmp_path / "corpus" / "part-000.parquet", tmp_path / "corpus" / "part-009.parquet")
    first = again(world)
    assert first["spent"]["scored_rows"] == NUM_PAIRS - len(BROKEN)
    assert first["counts"]["rows"] == NUM_PAIRS * 5 // 4
    assert first["counts"]["by_reason"]["duplicate"] == NUM_PAIRS // 4 - 1


def test_a_column_that_is_copied_and_changes_makes_another_selection_and_scores_nothing(
    world: dict[str, Any], tmp_path: Path
) -> None:
    first = again(world)
    rows = [{**row, "source": "elsewhere"} for row in rows_of(NUM_PAIRS)]
    write(tmp_path / "corpus", rows, row_group_size=25)
    second = again(world)
    assert second["spent"]["scored_rows"] == 0
    assert second["run_id"] != first["run_id"]
    (file,) = (tmp_path / "out" / "runs" / second["run_id"] / "selected").iterdir()
    assert set(pq.read_table(file)["source"].to_pylist()) == {"elsewhere"}
    assert same_numbers(first, second)


def test_what_a_finished_run_has_lost_is_scored_again(world: dict[str, Any], tmp_path: Path) -> None:
    first = again(world)
    before = scores(first)
    file = next((tmp_path / "out" / "scores" / first["fingerprints"]["policy"]).glob("*.parquet"))
    file.unlink()
    second = again(world)
    assert second["run_id"] == first["run_id"]
    assert file.exists()
    assert [row["pair_id"] for row in scores(second)] == [row["pair_id"] for row in before]

"""A night on an object store: sixteen known shards cost nothing beyond the listing, a new one a request or two."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from mapjob.config.load import parse_config
from mapjob.corpus import reader
from mapjob.job.prepare import name_units_here, prepare
from mapjob.job.rank import rank_scored
from mapjob.job.run import rank_job
from mapjob.store.remote import filesystem
from mapjob.store.storage import Storage
from tests.fakes import config_tree, make_pairs, make_policy, make_reward
from tests.without_ray import run

ROWS, NUM_SHARDS = 12, 16


@contextmanager
def count_requests() -> Iterator[Counter[tuple[str, str]]]:
    """Inside, (method, last part of the key) of every request to S3; of listings the prefix."""
    requests: Counter[tuple[str, str]] = Counter()
    call = s3fs.S3FileSystem._call_s3
    listing = s3fs.S3FileSystem._iterdir

    async def count(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        requests[method, str(options.get("Key", ""))] += 1
        return await call(self, method, *arguments, **options)

    async def count_pages(self: Any, bucket: str, **options: Any) -> Any:
        requests["list", str(options.get("prefix", ""))] += 1
        async for entry in listing(self, bucket, **options):
            yield entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_call_s3", count)
        patch.setattr(s3fs.S3FileSystem, "_iterdir", count_pages)
        yield requests


def methods(requests: Counter[tuple[str, str]]) -> Counter[str]:
    """How many requests there were, by method."""
    return Counter(method for method, _ in requests.elements())


def of_corpus(requests: Counter[tuple[str, str]], method: str | None = None) -> list[str]:
    """Names of the corpus's files that requests were about."""
    keys = [key for (kind, key), number in requests.items() for _ in range(number) if method in (None, kind)]
    return sorted(key.rpartition("/")[2] for key in keys if key.endswith(".parquet") and "corpus" in key)


def put(bucket: str, number: int, folder: str = "corpus") -> None:
    fs, root = filesystem(f"{bucket}/{folder}")
    rows = make_pairs(ROWS * (number + 1), seed=3)[ROWS * number :]
    with fs.open(f"{root}/night-{number:02}.parquet", "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows), file)


def test_a_plan_of_known_shards_asks_for_nothing_but_the_listing(bucket: str, tmp_path: Path) -> None:
    for number in range(NUM_SHARDS):
        put(bucket, number)
    models = make_policy(tmp_path / "policy"), make_reward(tmp_path / "reward")
    tree = config_tree(f"{bucket}/corpus", f"{bucket}/out", *models)
    config = parse_config(tree)
    with count_requests() as requests:
        first = run(config)
    assert first["spent"]["scored_rows"] == ROWS * NUM_SHARDS
    new = f"night-{NUM_SHARDS:02}.parquet"

    with count_requests() as requests:
        assert not prepare(config).plan.unnamed
    assert of_corpus(requests) == []
    known = requests.total()
    heads = [key for (method, key), _ in requests.items() if method == "head_object" and "/plans/" in key]
    assert not heads, "what is known is read by one request"

    put(bucket, NUM_SHARDS)
    with count_requests() as requests:
        assert len(prepare(config).plan.unnamed) == 1
    assert of_corpus(requests) == [new]
    assert of_corpus(requests, "get_object") == [new]
    assert requests.total() <= known + 4, "and what the last run took per row is looked up"
    print(f"a plan of {NUM_SHARDS} known shards: {known} requests, with a new one {requests.total()}: {dict(requests)}")

    second = run(config)
    assert second["spent"]["scored_rows"] == ROWS
    other = parse_config({**tree, "selection": {**tree.get("selection", {}), "alpha": 2.5}})
    with count_requests() as requests:
        assert rank_job(other)["run_id"] != second["run_id"]
    of_scores = [key for method, key in requests.elements() if method == "get_object" and "/scores/" in key]
    of_packs = [key for key in of_scores if "/packs/" in key]
    assert len(of_packs) == 3 * 2, "of three families one pack, for the numbers and for what is published"
    assert len({*of_scores} - {*of_packs}) == 3, "one new unit has no pack"
    with count_requests() as requests:
        assert run(config)["run_id"] == second["run_id"]
    assert of_corpus(requests) == []


@pytest.mark.parametrize(("pattern", "listings"), [("", 1), ("/*.parquet", 2)])  # fsspec's glob lists a folder twice
def test_a_first_plan_takes_one_request_per_file_and_one_listing(
    bucket: str, tmp_path: Path, pattern: str, listings: int
) -> None:
    models, beyond = (make_policy(tmp_path / "policy"), make_reward(tmp_path / "reward")), []
    for folder, num_files in (("corpus", 4), ("large-corpus", 24)):
        for number in range(num_files):
            put(bucket, number, folder)
        config = parse_config(config_tree(f"{bucket}/{folder}{pattern}", tmp_path / folder, *models))
        with count_requests() as requests:
            plan = prepare(config).plan
        assert len(plan.units) == num_files
        files = of_corpus(requests, "get_object")
        assert len(files) == len({*files}) == num_files
        assert requests["list", f"{folder}/"] == listings, "a listing is a request per 1,000 files"
        beyond.append({method: number for method, number in methods(requests).items() if method != "get_object"})

        plan.with_ids({index: str(index) for index in range(num_files)}).keep(str(tmp_path / folder))
        with count_requests() as requests:
            prepare(config)
        assert methods(requests)["get_object"] == 0, "what is known of them lies on the local disk here"
    assert beyond[0] == beyond[1], "not more for more files"
    print(f"a first plan{' of a glob' * bool(pattern)}: one request per file, and {beyond[0]}")


def test_a_ranking_reads_each_object_of_the_scores_once_and_publishing_each_needed_part_of_the_corpus(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 units of a row group of 4 rows each, in two files."""
    monkeypatch.setattr(reader, "BATCH_ROWS", 4)
    rows = make_pairs(48, seed=3)
    fs, root = filesystem(f"{bucket}/corpus")
    for number in range(2):
        with fs.open(f"{root}/part-{number}.parquet", "wb") as file:
            pq.write_table(pa.Table.from_pylist(rows[24 * number :][:24]), file, row_group_size=4)
    models = make_policy(tmp_path / "policy"), make_reward(tmp_path / "reward")
    execution = {"execution": {"rows_per_unit": 4}}
    first = run(parse_config(config_tree(f"{bucket}/corpus", f"{bucket}/out", *models, **execution)))
    selection = {"selection": {"keep": {"count": 6}, "metric": "random"}}
    config = parse_config(config_tree(f"{bucket}/corpus", f"{bucket}/out", *models, **execution, **selection))

    with count_requests() as requests:
        _, ranking = rank_scored(name_units_here(prepare(config)))
    of_scores = [(method, key) for method, key in requests.elements() if "/scores/" in key and key.endswith(".parquet")]
    assert len(of_scores) == len({*of_scores}) == 3, "12 units of 3 families lie in a pack per family"
    assert {method for method, _ in of_scores} == {"get_object"}

    needed = Counter(f"part-{unit // 6}.parquet" for unit in {*(ranking.pairs.position[ranking.kept] // 4).tolist()})
    assert 1 < needed.total() < 12, "some row groups are needed, some are not"
    with count_requests() as requests:
        published = rank_job(config)
    assert published["run_id"] != first["run_id"]
    of_files = Counter(of_corpus(requests, "get_object"))
    assert of_files == {name: 1 + len(rows[0]) * num for name, num in needed.items()}, "footer, and chunks of columns"

    Storage(published["config"]["output"]["path"]).remove(f"runs/{published['run_id']}/manifest.json")
    with count_requests() as requests:
        assert rank_job(config)["counts"] == published["counts"]
    assert of_corpus(requests) == [], "all files stand already"


def test_a_file_that_is_replaced_on_s3_by_one_of_the_same_size_is_noticed(bucket: str, tmp_path: Path) -> None:
    put(bucket, 0)
    fs, root = filesystem(f"{bucket}/corpus")
    models = make_policy(tmp_path / "policy"), make_reward(tmp_path / "reward")
    tree = config_tree(f"{bucket}/corpus", tmp_path / "out", *models)
    first = run(parse_config(tree))
    rows = pq.read_table(fs.open(f"{root}/night-00.parquet")).to_pylist()
    rows[4]["chosen"], rows[4]["rejected"] = rows[4]["rejected"], rows[4]["chosen"]
    size = fs.size(f"{root}/night-00.parquet")
    with fs.open(f"{root}/night-00.parquet", "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
    assert abs(fs.size(f"{root}/night-00.parquet") - size) < 16
    second = run(parse_config(tree))
    assert second["run_id"] != first["run_id"]
    assert second["spent"]["scored_rows"] == 1

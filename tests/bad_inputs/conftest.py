"""Runs of made corpora in this process: plan, read, encode, score, commit, rank, publish, without Ray."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.load import parse_config
from mapjob.job.run import rank_job
from mapjob.store.run_folder import open_run, path_of
from tests.fakes import config_tree, make_policy, make_reward
from tests.without_ray import score_all

ALL = {"keep": {"ratio": 1.0}}


@dataclass(frozen=True)
class Outcome:
    manifest: dict[str, Any]
    selected: pa.Table
    errors: list[dict[str, Any]]

    @property
    def reasons(self) -> dict[int, str]:
        """Row of its file -> the reason it is not ranked."""
        return {row["row"]: row["reason"] for row in self.errors}


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"policy": make_policy(folder / "policy"), "reward": make_reward(folder / "reward")}


@pytest.fixture
def run(models, tmp_path) -> Run:
    """`run(table, ..., section={...})`: a shard for each table, the whole corpus selected unless told otherwise."""

    calls = itertools.count()

    def whole_run(*shards: pa.Table, policy: Path | None = None, reward: Path | None = None, **sections: Any):
        folder = tmp_path / f"run {next(calls)}"
        corpus = write(folder / "corpus", *shards)
        own = policy or models["policy"], reward or models["reward"]
        sections = {"selection": ALL, "max_error_rate": 1.0, **sections}
        config = parse_config(config_tree(corpus, folder / "out", *own, **sections))
        score_all(config)
        manifest = rank_job(config)
        run_folder = open_run(path_of(manifest)).folder
        selected, errors = (
            pa.concat_tables([run_folder.read_table(name) for name in run_folder.tables(folder)])
            for folder in ("selected", "errors")
        )
        return Outcome(manifest, selected, errors.to_pylist())

    return whole_run


def write(folder: Path, *shards: pa.Table, **options: Any) -> Path:
    folder.mkdir(parents=True)
    for number, table in enumerate(shards):
        pq.write_table(table, folder / f"part-{number:05}.parquet", **options)
    return folder


def pairs(num: int, first: int = 0) -> pa.Table:
    """Pairs of plain strings, all different."""
    numbers = range(first, first + num)
    columns = {name: [f"{name} {'word ' * (i % 7)}{i}" for i in numbers] for name in ("prompt", "chosen", "rejected")}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})

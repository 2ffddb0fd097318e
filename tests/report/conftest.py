"""Finished runs to report on: random models, no Ray."""

from pathlib import Path
from typing import Any

import pytest

from mapjob.config.load import parse_config
from mapjob.job.run import rank_job
from mapjob.store.run_folder import path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run

PLANTED = "zyzzyva"  # in every text of the corpus, and nowhere else
EVIL = "<script>alert(1)</script>&\x1b[31m"  # a group, an id, a folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models of reports")
    return {"policy": make_policy(folder / "policy"), "reward": make_reward(folder / "reward")}


@pytest.fixture(scope="session")
def tree(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run file over 120 pairs of three groups, of which some are dropped, some broken; scored."""
    folder = tmp_path_factory.mktemp("reported")
    rows = make_pairs(120)
    for number, row in enumerate(rows):
        row |= {side: f"{PLANTED} {row[side]}" for side in ("prompt", "chosen", "rejected")}
        row |= {"own id": f"{EVIL} {number}", "topic": [EVIL, "plain", None][number % 3]}
    rows[4] |= {side: rows[3][side] for side in ("prompt", "chosen", "rejected")}
    rows[7]["chosen"] = rows[7]["rejected"]
    rows[9]["prompt"] = None
    corpus = write_corpus(folder / "<b>corpus", rows)
    tree = config_tree(corpus, folder / "out", models["policy"], models["reward"], max_error_rate=0.1)
    tree["execution"]["rows_per_unit"] = 50
    tree["input"]["columns"] = {"id": "own id", "group": "topic"}
    run(parse_config(tree))
    return tree


@pytest.fixture(scope="session")
def manifest(tree: dict[str, Any]) -> dict[str, Any]:
    return rank_job(parse_config(tree))


@pytest.fixture(scope="session")
def page(manifest: dict[str, Any]) -> str:
    """The report as it stands in the run folder."""
    return (Path(path_of(manifest)) / "report.html").read_text()

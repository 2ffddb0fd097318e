"""A scored corpus on which people decide."""

from typing import Any

import pytest

from mapjob.config.load import parse_config
from mapjob.job.run import load_scores, rank_job
from mapjob.store.run_folder import path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A scored corpus with ids, in which row 50 repeats row 20 and row 51 is row 21 with its sides exchanged."""
    folder = tmp_path_factory.mktemp("decisions")
    rows = make_pairs(60)
    for i, row in enumerate(rows):
        row |= {
            "id": f"row{i}",
            "meta": {"score": i, "tag": "x" if i % 2 else None},
            "words": "12" if i < 59 else "many",
        }
        row |= {"of_one_file": i} if i < 30 else {}
    texts = ("prompt", "chosen", "rejected")
    rows[50] |= {name: rows[20][name] for name in texts}
    rows[51] |= {"prompt": rows[21]["prompt"], "chosen": rows[21]["rejected"], "rejected": rows[21]["chosen"]}
    corpus = write_corpus(folder / "in", rows)
    tree = config_tree(corpus, folder / "out", make_policy(folder / "policy"), make_reward(folder / "reward"))
    tree["execution"] = {"rows_per_unit": 9}
    tree["input"]["columns"] = {"id": "id", "group": "source"}
    run(parse_config(tree))
    return tree


@pytest.fixture(scope="module")
def plain(tree: Tree) -> dict[str, dict[str, Any]]:
    """The rows of a run without decisions, by pair_id."""
    return scores(rank_job(parse_config({**tree, "selection": {"keep": {"ratio": 1.0}}})))


def scores(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["pair_id"]: row for row in load_scores(path_of(manifest)).to_pylist()}

"""Votes of several reward models: which labels a run drops or relabels, and what it says of them."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.load import parse_config
from mapjob.job.review import find_for_review
from mapjob.job.run import rank_job
from mapjob.metrics.ensemble import VOTES
from mapjob.store.run_folder import open_run, path_of
from tests.fakes import make_reward
from tests.golden import plain_metrics as plain
from tests.selection.conftest import Tree, scores
from tests.without_ray import run

REPEATS = {"row50", "row51"}


@pytest.fixture(scope="module")
def voted(tree: Tree, tmp_path_factory) -> Tree:
    """The scored corpus with three reward models."""
    folder = tmp_path_factory.mktemp("rewards")
    models = {name: {"path": str(make_reward(folder / name, seed=seed))} for seed, name in enumerate("abc")}
    voted = {**tree, "models": {**tree["models"], "reward": models}}
    run(parse_config(voted))
    return voted


@pytest.fixture(scope="module")
def labelled(voted: Tree) -> dict[str, dict[str, Any]]:
    """The rows with the labels of the corpus, by pair_id, but for repeats."""
    rows = scores(rank(voted))
    return {one: row for one, row in rows.items() if one not in REPEATS}


def rank(tree: Tree, **selection: Any) -> dict[str, Any]:
    return rank_job(parse_config({**tree, "selection": {"keep": {"ratio": 1.0}, **selection}}))


@pytest.mark.parametrize("votes", VOTES)
def test_what_they_contradict_is_dropped_or_relabelled_and_counted(voted, labelled, votes):
    fallen = {one for one, row in labelled.items() if plain.is_contradicted(row, votes)}
    by_mean = {one for one, row in labelled.items() if row["reward_margin"] < 0}
    assert 0 < len(fallen) < len(labelled)
    assert fallen != by_mean
    dropped = rank(voted, on_disagreement="drop", votes=votes)
    folder = open_run(path_of(dropped)).folder
    errors = pa.concat_tables([folder.read_table(name) for name in folder.tables("errors")]).to_pylist()
    assert {row["pair_id"] for row in errors if row["reason"] == "disagreement"} - REPEATS == fallen
    assert scores(dropped).keys() - REPEATS == labelled.keys() - fallen
    counts = dropped["counts"]
    contradicted = counts["by_reason"]["disagreement"]
    assert dropped["measures"]["contradicted"] == contradicted / (counts["ranked"] + contradicted)
    relabelled = rank(voted, on_disagreement="relabel", votes=votes)
    for one, row in scores(relabelled).items():
        sign = -1 if one in fallen else 1
        for margin in ("reward_margin", "implicit_margin"):
            assert row[margin] == sign * labelled[one][margin]
    assert relabelled["flags"]["relabelled"] == sum(
        plain.is_contradicted(row, votes) for row in scores(rank(voted)).values()
    )


def test_people_are_shown_what_the_votes_contradict(voted, labelled):
    fallen = {one for one, row in labelled.items() if plain.is_contradicted(row, "all")}
    shown = find_for_review(rank(voted, on_disagreement="drop", votes="all"), "contradicted", 100)
    assert {row["pair_id"] for row in shown} - REPEATS == fallen
    assert [row["reward_margin"] for row in shown] == sorted(row["reward_margin"] for row in shown)


def test_votes_find_their_run_again_and_other_votes_make_another(voted):
    ids = {votes: rank(voted, on_disagreement="drop", votes=votes)["run_id"] for votes in (None, "majority", "all")}
    assert len(set(ids.values())) == 3
    selected = pq.read_table(f"{path_of(rank(voted, on_disagreement='drop', votes='all'))}/selected")
    assert {f"{side}_reward.{model}" for side in ("chosen", "rejected") for model in "abc"} <= {*selected.column_names}

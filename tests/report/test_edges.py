"""Reports of selections that have little or much to show: each is whole, and well-formed."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pyarrow as pa
import pytest

from mapjob.config.load import parse_config
from mapjob.job.prepare import prepare
from mapjob.job.rank import rank_scored
from mapjob.job.run import rank_job
from mapjob.metrics.table import METRICS
from mapjob.ranking.rank import rank_pairs
from mapjob.report.page import page
from mapjob.report.summary import summary
from mapjob.store.run_folder import path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.report.parsed import Parsed, loaded
from tests.without_ray import run

LIMIT = 500_000  # bytes


def report_of(tree: dict[str, Any], **selection: Any) -> Parsed:
    manifest = run(parse_config({**tree, "selection": selection}))
    text = (Path(path_of(manifest)) / "report.html").read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    assert loaded(text) == []
    assert len(text) < LIMIT
    assert not re.search(r"\bnan\b", text)
    return Parsed(text)


@pytest.mark.parametrize(
    "selection",
    [
        {"keep": {"count": 0}},
        {"keep": {"threshold": 1e9}},
        {"keep": {"ratio": 1.0}},
        {"keep": {"tokens": 200}},
        {"alpha": 0.0},
        {"metric": "random", "held_out": 0.3},
        {"metric": "map_signed", "on_disagreement": "drop"},
        {"on_disagreement": "relabel", "per_prompt": 1, "near_duplicates": 0.9},
        {"quotas": {"plain": 0.9}},
    ],
    ids=str,
)
def test_selections(tree, selection):
    parsed = report_of(tree, **selection)
    assert parsed.names.count("svg") == 7
    assert "ranked by" in parsed.words["head"]


def test_an_empty_selection_says_so(tree):
    parsed = report_of(tree, keep={"count": 0})
    assert "nothing is kept" in parsed.words["run"]
    assert parsed.row("others", "explicit")[2] == "1.000", "two empty selections are the same"


def test_one_pair_and_no_groups(models, tmp_path):
    corpus = write_corpus(tmp_path / "in", make_pairs(1), num_files=1)
    tree = config_tree(corpus, tmp_path / "out", models["policy"], models["reward"])
    parsed = report_of(tree, scale="raw", keep={"count": 1})
    assert parsed.row("effects", "pairs")[1:] == ["1", "1"]
    assert "Groups" not in parsed.words["effects"]


def test_a_side_that_says_nothing(tree):
    """Every implicit margin is the same, so its term is 0 and the cut line upright."""
    config = parse_config(tree)
    manifest = rank_job(config)
    _, ranking = rank_scored(prepare(config))
    flat = ranking.pairs.columns | {"simpo_margin": np.full(len(ranking.pairs), 0.5)}
    ranking = rank_pairs(replace(ranking.pairs, columns=flat), config.selection, lambda index: pa.array(index))
    assert ranking.scale.implicit == 0
    scale = {"reward": ranking.scale.reward, "implicit": ranking.scale.implicit}
    statistics = {**manifest["statistics"], "scale": scale, "cut_off": ranking.cut_off}
    changed = {**manifest, "warnings": list(ranking.warnings), "statistics": statistics}
    parsed = Parsed(page(changed, summary(ranking, "map", {})))
    assert "its term of MAP is 0" in parsed.words["warnings"]
    assert parsed.names.count("svg") == 7


def test_many_groups_and_long_names(models, tmp_path):
    rows = make_pairs(60)
    for number, row in enumerate(rows):
        row["source"] = f"{number} " + "long " * 2000
    tree = config_tree(write_corpus(tmp_path / "in", rows), tmp_path / "out", *models.values())
    tree["input"]["columns"] = {"group": "source"}
    parsed = report_of(tree, keep={"ratio": 0.5})
    assert parsed.row("effects", "40 other groups")[1] == "40"
    assert "characters)" in parsed.words["effects"]


@pytest.fixture(scope="module")
def many_models(tmp_path_factory) -> dict[str, Any]:
    """Everything that any metric goes by: a reference, two reward models."""
    folder = tmp_path_factory.mktemp("many")
    paths = {"policy": make_policy(folder / "policy"), "reference": make_policy(folder / "reference", seed=5)}
    many = {"one": make_reward(folder / "one"), "two": make_reward(folder / "two", "mistral", seed=9)}
    made = {name: {"path": str(path), "dtype": "float32"} for name, path in paths.items()}
    tree = config_tree(write_corpus(folder / "in", make_pairs(60)), folder / "out", Path(), Path())
    reward = {name: {"path": str(path), "dtype": "float32"} for name, path in many.items()}
    return {**tree, "models": {**made, "reward": reward}}


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric(many_models, metric):
    parsed = report_of(many_models, metric=metric, metrics=list(METRICS), signals={"madpo_weight": {}})
    assert f"ranked by {metric}" in parsed.words["head"]
    compared = [row[0] for row in parsed.cells["others"][1:]]
    assert len(compared) == len(METRICS) - 1
    assert {"policy", "reference", "reward.one", "reward.two"} <= set(parsed.words["run"].split("\n"))

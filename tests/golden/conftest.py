"""Real preference rows that the golden tests score, and a real corpus that is scored once for all of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

import mapjob.scoring.models
from mapjob.config.load import parse_config
from mapjob.job.rank import rank_scored
from mapjob.ranking.pairs import Pairs
from tests.fakes import config_tree, write_corpus
from tests.golden.columns import whole


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def multiplies_bfloat16(monkeypatch) -> None:
    """Models in bfloat16 are computed in it, also where the processor has no products of it and torch makes them up."""
    monkeypatch.setattr(mapjob.scoring.models, "multiplies_bfloat16", lambda: True)


@pytest.fixture(scope="session")
def flawed_pairs(shared: Path) -> list[dict[str, Any]]:
    """800 real pairs of plain strings of at most 400 characters from all over the corpus, with its repeats in them."""
    table = pq.read_table(shared / "data" / "alpaca_eval_pairs", columns=["prompt", "chosen", "rejected"])
    chosen, rejected = pc.utf8_length(table["chosen"]), pc.utf8_length(table["rejected"])
    length = pc.add(pc.utf8_length(table["prompt"]), pc.max_element_wise(chosen, rejected))
    return evenly(table.filter(pc.less_equal(length, 400)).to_pylist(), 800)


@pytest.fixture(scope="session")
def short_pairs(flawed_pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """200 of them, all different, without identical sides."""
    rows = [row for row in flawed_pairs if row["chosen"] != row["rejected"]]
    return evenly(list({tuple(row.values()): row for row in rows}.values()), 200)


def evenly(rows: list[Any], num: int) -> list[Any]:
    return [rows[i] for i in np.linspace(0, len(rows) - 1, num).astype(int)]


@pytest.fixture(scope="session")
def scored_pairs(tmp_path_factory, shared, flawed_pairs) -> Pairs:
    """The flawed pairs as the small trained models (float32) score them; `position` is the index in flawed_pairs."""
    from tests.without_ray import score_all

    folder, models = tmp_path_factory.mktemp("scored"), shared / "models" / "small"
    tree = config_tree(write_corpus(folder / "corpus", flawed_pairs), folder / "out", Path(), Path())
    tree["models"] = {
        name: {"path": str(models / name), "dtype": "float32"} for name in ("policy", "reference", "reward")
    }
    tree["execution"] = {"rows_per_unit": 150}
    scored, _ = rank_scored(score_all(parse_config(tree)))
    return whole(unit.pairs for unit in scored.units.read())

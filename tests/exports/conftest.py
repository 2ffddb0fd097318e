"""Whole runs in each output format, of messages and of raw text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mapjob.config.load import parse_config
from mapjob.config.run import Config
from mapjob.store.run_folder import path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run

FORMATS = ("trl", "openrlhf", "llama_factory", "columns")
Row = dict[str, Any]
Exported = Callable[[str, str], Path]  # style and output format to the run folder


def dialogues(num: int) -> list[Row]:
    """Messages of one turn and of three, with a system message and without, as TRL reads them; own columns beside."""
    rows = []
    for i, row in enumerate(make_pairs(num, seed=3)):
        prompt = [{"role": "user", "content": row["prompt"]}]
        if i % 2:
            before = [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": "yes?"}]
            prompt = [*before, *prompt]
        if i % 4 > 1:
            prompt = [{"role": "system", "content": "Be kind."}, *prompt]
        sides = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        rows.append({"prompt": prompt, **sides, "source": row["source"], "rank": i, "conversations": "theirs"})
    return rows


CORPORA = {"chat": dialogues(24), "raw": make_pairs(24, seed=3)}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return make_policy(folder / "policy"), make_reward(folder / "reward")


def config(folder: Path, models: tuple[Path, Path], rows: list[Row], **more: Any) -> Config:
    corpus = folder / "corpus"
    if not corpus.exists():
        write_corpus(corpus, rows)
    tree = config_tree(corpus, folder / "out", *models, execution={"rows_per_unit": 5})
    tree["models"]["reference"] = tree["models"]["policy"]
    return parse_config({**tree, **more})


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, models: tuple[Path, Path]) -> Exported:
    """The run folder of a corpus under a style and a format; each corpus is scored once."""
    folders = {style: tmp_path_factory.mktemp(style) for style in CORPORA}

    def export(style: str, output_format: str) -> Path:
        folder, rows = folders[style], CORPORA[style]
        source = {"path": str(folder / "corpus"), "plain_text": style}
        keep = {"keep": {"ratio": 0.5}}
        return Path(
            path_of(run(config(folder, models, rows, input=source, output_format=output_format, selection=keep)))
        )

    return export


def rows_of(folder: Path) -> list[Row]:
    return pq.read_table(folder / "selected").to_pylist()


def pairs_of(folder: Path) -> list[tuple]:
    """prompt, chosen and rejected of TRL's layout."""
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows_of(folder)]

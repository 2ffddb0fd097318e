"""What all output formats have in common: they load, hold the same scores, and say how to train on them."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset

from mapjob.job.prepare import find_warnings, prepare
from mapjob.report.pair import selected_pair
from mapjob.store.run_folder import open_run, path_of
from tests.exports.conftest import CORPORA, FORMATS, Exported, config, pairs_of, rows_of
from tests.fakes import make_pairs
from tests.without_ray import run


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("style", CORPORA)
def test_datasets_loads_the_run_folder(exported: Exported, style: str, output_format: str, tmp_path: Path) -> None:
    folder = exported(style, output_format)
    loaded = load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    assert list(loaded) == rows_of(folder)
    assert len(loaded) == 12
    assert loaded["rank"] == list(range(1, 13))


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("style", CORPORA)
def test_every_format_has_the_same_scores_and_no_column_that_trainers_take_for_theirs(
    exported: Exported, style: str, output_format: str
) -> None:
    folder, trl = exported(style, output_format), exported(style, "trl")
    ours = ["pair_id", "rank", "map_score", "reward_margin", "ref_chosen_logps", "ref_rejected_logps"]
    table = pq.read_table(folder / "selected")
    assert table.select(ours) == pq.read_table(trl / "selected", columns=ours)
    assert not {"margin", "label"} & set(table.column_names)


def test_an_own_column_whose_name_a_format_needs_is_renamed(exported: Exported) -> None:
    renamed = {
        name: set(rows_of(exported("chat", name))[0]) & {"conversations", "input_conversations"} for name in FORMATS
    }
    assert renamed.pop("llama_factory") == {"conversations", "input_conversations"}
    assert all(names == {"conversations"} for names in renamed.values())


def test_each_format_is_a_run_of_its_own(exported: Exported) -> None:
    assert len({exported("chat", output_format).name for output_format in FORMATS}) == len(FORMATS)


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("style", CORPORA)
def test_a_person_sees_the_same_pair(exported: Exported, style: str, output_format: str) -> None:
    run = open_run(str(exported(style, output_format)))
    for rank, pair in enumerate(pairs_of(exported(style, "trl"))[:4], start=1):
        row = selected_pair(run, str(rank))
        assert (row["prompt"], row["chosen"], row["rejected"]) == pair


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("style", CORPORA)
def test_the_card_says_how_to_load_it(exported: Exported, style: str, output_format: str) -> None:
    text = (exported(style, output_format) / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["configs"][0]["data_files"][0]["path"] == "selected/*.parquet"
    says = {
        "trl": "DPOTrainer",
        "openrlhf": {"chat": "--data.apply_chat_template", "raw": "--data.prompt_key prompt"}[style],
        "llama_factory": '--dataset_dir "this folder" --dataset selected',
        "columns": "`chosen_index`",
    }
    assert [name for name, words in says.items() if words in text] == [output_format]


# The corpus's own columns


@pytest.mark.parametrize("style", CORPORA)
def test_columns_are_those_of_the_corpus(exported: Exported, style: str) -> None:
    own = {"rank": "input_rank"} if style == "chat" else {}
    rows = rows_of(exported(style, "columns"))
    corpus = {json.dumps(row["prompt"]): row for row in CORPORA[style]}
    for row in rows:
        source = corpus[json.dumps(row["prompt"])]
        assert {name: row[own.get(name, name)] for name in source} == source
        assert (row["chosen_index"], row["rejected_index"]) == (0, 1)
    assert list(rows[0])[: len(source)] == [own.get(name, name) for name in source]


def test_columns_of_candidates_and_of_exchanged_sides_say_which_completion_is_meant(models, tmp_path: Path) -> None:
    pairs = make_pairs(12, seed=5)
    candidates = [
        {"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"], f"{i}?"]} for i, row in enumerate(pairs)
    ]
    for name, rows, disagreement in (("many", candidates, "keep"), ("pairs", pairs, "relabel")):
        sides = ["responses"] if name == "many" else ["chosen", "rejected"]
        settings = {"selection": {"keep": {"ratio": 1.0}, "on_disagreement": disagreement}}
        trl, columns = (
            rows_of(Path(path_of(run(config(tmp_path / name, models, rows, output_format=fmt, **settings)))))
            for fmt in ("trl", "columns")
        )
        for told, row in zip(trl, columns):
            completions = row["responses"] if name == "many" else [row[side] for side in sides]
            text = told["chosen"][0]["content"], told["rejected"][0]["content"]
            assert (completions[row["chosen_index"]], completions[row["rejected_index"]]) == text
        assert {row["chosen_index"] for row in columns} > {0}, "else the test shows nothing"


def test_columns_that_are_not_what_sanitize_had_scored_are_announced(models, tmp_path: Path) -> None:
    def warnings(**more: Any) -> list[str]:
        prepared = prepare(config(tmp_path, models, CORPORA["raw"], **more))
        return [line for line in find_warnings(prepared) if "sanitize" in line]

    sanitize = {"scoring": {"control_tokens": "sanitize", "max_length": 512}}
    (warning,) = warnings(output_format="columns", **sanitize)
    assert warning.startswith("output_format columns")
    assert not warnings(output_format="columns")
    assert not warnings(output_format="trl", **sanitize)

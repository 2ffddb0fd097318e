"""Whole runs on messages with further keys and with tools: what is selected is what was scored, for every reader."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset

from mapjob.config.load import parse_config
from mapjob.corpus.plan import read_unit
from mapjob.corpus.reader import read_records
from mapjob.corpus.records import filled
from mapjob.errors import ConfigError, ModelError
from mapjob.job.prepare import prepare
from mapjob.lab.training.config import Training
from mapjob.lab.training.train import train
from mapjob.report.card import card
from mapjob.report.pair import pair_article, pair_text, selected_pair
from mapjob.scoring.encode import Encoder
from mapjob.store.run_folder import FinishedRun, open_run, path_of
from tests.fakes import config_tree, make_policy, make_reward, make_thinking_tokenizer, make_tokenizer
from tests.golden.test_further_keys import PAIRS, TEMPLATES, TOOL, ids_by_trl
from tests.without_ray import run

NAMES = ("prompt", "chosen", "rejected")
OTHER = {"function": {"name": "look_up", "arguments": {"word": "naïve <|end|>", "b": 1}}}


def rows(num: int) -> list[dict[str, Any]]:
    """PAIRS again and again, all of them different, each with its tools."""
    made = []
    for i in range(num):
        pair, given = deepcopy((PAIRS[i % len(PAIRS)], TEMPLATES[i % len(PAIRS)]))
        prompt = [*pair.prompt[:-1], pair.prompt[-1] | {"content": f"{pair.prompt[-1]['content']} {i}"}]
        tools = given["tools"] if given else None
        made.append({"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected, "tools": tools, "number": i})
    return made


def write(folder: Path, *files: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for number, file in enumerate(files):
        pq.write_table(pa.Table.from_pylist(file), folder / f"part-{number}.parquet")
    return folder


def tree(folder: Path, corpus: Path, **more: Any) -> dict[str, Any]:
    tokenizer = make_thinking_tokenizer()
    policy = make_policy(folder / "policy", "qwen3", tokenizer)
    sections = {"selection": {"keep": {"ratio": 1.0}}, "execution": {"rows_per_unit": 7}, **more}
    return config_tree(corpus, folder / "out", policy, make_reward(folder / "reward", "llama", tokenizer), **sections)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files: the second has calls and tools with other entries than the first, and in another order."""
    first, second = rows(18), rows(27)[18:]
    for row in second:
        for message in (*row["prompt"], *row["chosen"], *row["rejected"]):
            for call in message.get("tool_calls", ()):
                arguments = call["function"]["arguments"]
                call["function"] = {"arguments": {"c": "x", **dict(reversed(arguments.items()))}, "name": "more"}
        if row["tools"]:
            row["tools"] = [{"about": "more", **TOOL}]
    return write(tmp_path_factory.mktemp("tools") / "corpus", first, second)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> tuple[dict[str, Any], FinishedRun]:
    made = tree(tmp_path_factory.mktemp("run"), corpus)
    return made, open_run(path_of(run(parse_config(made))))


def scored_ids(made: dict[str, Any]) -> dict[int, tuple[list[int], ...]]:
    """Token ids that the policy is given, by the row's number."""
    job = prepare(parse_config(made))
    tables = [read_unit(unit) for unit in job.plan.units]
    records = [record for table in tables for record in read_records(table, job.plan.corpus.reading)]
    numbers = [number for table in tables for number in table["number"].to_pylist()]
    encoded = Encoder(job.scorers[0].encoding, job.plan.corpus).encode(records)
    return {
        number: tuple(part.tolist() for part in (item.prompt, *item.completions))
        for number, item in zip(numbers, encoded)
    }


def loaded(folder: Path, cache: Path) -> Dataset:
    return load_dataset(str(folder), split="train", cache_dir=str(cache))


@pytest.mark.trl
def test_trl_trains_on_the_tokens_that_were_scored_row_by_row(finished, tmp_path):
    made, done = finished
    dataset = loaded(Path(done.folder.url), tmp_path)
    assert len(dataset) == 27, [pq.read_table(Path(done.folder.url) / "errors").to_pylist()]
    ids = ids_by_trl(Path(made["models"]["policy"]["path"]), dataset, tmp_path / "trl")
    ours = scored_ids(made)
    assert {row["number"]: row_ids for row, row_ids in zip(dataset, ids)} == ours


def test_a_training_takes_the_tools(finished, tmp_path):
    """It drops pairs whose tokens are not those that were scored, and raises if all are."""
    made, done = finished
    result = train(done, Training(max_steps=1, batch_size=4), tmp_path / "model")
    assert result["pairs"] == 27
    plain = make_policy(tmp_path / "plain", tokenizer=make_tokenizer())
    with pytest.raises(ModelError, match="takes none"):
        train(
            done,
            Training(max_steps=1),
            tmp_path / "other",
            parse_config(made).models.policy.model_copy(update={"path": str(plain)}),
        )


def test_every_message_has_every_key_in_every_file(finished):
    _, done = finished
    (table,) = [done.folder.read_table(name) for name in done.folder.tables("selected")]
    keys = ["role", "content", "name", "reasoning_content", "tool_calls"]
    assert {tuple(table.schema.field(name).type.value_type.names) for name in NAMES} == {tuple(keys)}
    assert done.manifest["corpus"]["message_keys"] == keys[2:]
    assert done.manifest["corpus"]["reading"]["template"] == ["tools"]


def test_a_person_sees_where_two_sides_differ(finished):
    _, done = finished
    seen = [selected_pair(done, str(rank)) for rank in range(1, 28)]
    texts = [pair_text(done.manifest, row, is_selected=True) for row in seen]
    thinking = [text for text in texts if "[assistant, reasoning_content] a guess" in text]
    assert len(thinking) == 3
    assert all("[assistant, tool_calls]" in text for row, text in zip(seen, texts) if row["number"] % 9 in (4, 5, 6))
    assert all("reasoning_content" in pair_article(row) for row in seen if row["number"] % 9 in (1, 2, 3))
    assert "27 of 27" in card(done.manifest)


@pytest.mark.parametrize("output_format", ["openrlhf", "llama_factory"])
def test_a_format_that_cannot_hold_them_is_refused_by_row(finished, output_format):
    made, _ = finished
    with pytest.raises(ConfigError, match=f"output_format {output_format} cannot hold a selected pair") as caught:
        run(parse_config({**made, "output_format": output_format}))
    assert ".parquet, row" in caught.value.where


def test_columns_keep_the_corpus_and_read_back(finished):
    made, done = finished
    as_columns = open_run(path_of(run(parse_config({**made, "output_format": "columns"}))))
    for rank in (1, 9, 27):
        row, trl = selected_pair(as_columns, str(rank)), selected_pair(done, str(rank))
        assert [filled(row[name]) for name in NAMES] == [filled(trl[name]) for name in NAMES]


def test_columns_say_which_of_the_own_sides_a_verdict_chose(tmp_path):
    voted = [
        {"question": f"What is {i}?", "one": f"good {i}", "two": f"bad {i}", "winner": ("one", "two", "tie")[i % 3]}
        for i in range(12)
    ]
    verdict = {"column": "winner", "first": ["one"], "second": ["two"]}
    made = tree(tmp_path, write(tmp_path / "corpus", voted))
    made["input"]["reading"] = {"prompt": ["question"], "sides": ["one", "two"], "verdict": verdict}
    as_columns, done = (
        open_run(path_of(run(parse_config({**made, "output_format": name})))) for name in ("columns", "trl")
    )
    for rank in range(1, 9):
        row, trl = selected_pair(as_columns, str(rank)), selected_pair(done, str(rank))
        assert [row[name] for name in NAMES] == [trl[name] for name in NAMES]
        assert ["one", "two"][row["chosen_index"]] == row["winner"]
        assert row["chosen"][0]["content"] == row[row["winner"]]
        assert row["rejected_index"] == 1 - row["chosen_index"]


def test_an_ignored_column_is_kept_where_no_trainer_reads_it(finished, tmp_path):
    made, _ = finished
    source = {**made["input"], "reading": {"ignore": ["tools"]}}
    done = open_run(path_of(run(parse_config({**made, "input": source, "output": {"path": str(tmp_path / "out")}}))))
    (table,) = [done.folder.read_table(name) for name in done.folder.tables("selected")]
    assert "tools" not in table.column_names
    written = {row["number"]: filled(row["input_tools"]) for row in table.to_pylist()}
    assert [written[i] for i in range(18)] == [filled(row["tools"]) for row in rows(18)]


def test_a_model_without_tools_in_its_template_is_refused_before_it_is_loaded(finished, tmp_path):
    made, _ = finished
    plain = make_reward(tmp_path / "plain", tokenizer=make_tokenizer())
    models = {**made["models"], "reward": {"path": str(plain), "dtype": "float32"}}
    with pytest.raises(ModelError, match="column tools"):
        prepare(parse_config({**made, "models": models}))


@pytest.mark.trl
@pytest.mark.parametrize("as_json", [False, True])
def test_control_tokens_are_broken_up_in_what_is_written_too(tmp_path, as_json):
    marked = rows(9)
    for row in marked:
        row["tools"] = row["tools"] and [TOOL | {"about": "an <|end|> inside"}]
        if as_json:
            row["tools"] = json.dumps(row["tools"]) if row["number"] % 3 else ""
        row["chosen"][-1] = row["chosen"][-1] | {"reasoning_content": "so <|end|>", "tool_calls": [OTHER]}
    made = tree(tmp_path, write(tmp_path / "corpus", marked), scoring={"control_tokens": "sanitize"})
    done = open_run(path_of(run(parse_config(made))))
    dataset = loaded(Path(done.folder.url), tmp_path / "cache")
    assert len(dataset) == 9
    ids = ids_by_trl(Path(made["models"]["policy"]["path"]), dataset, tmp_path / "trl")
    assert {row["number"]: row_ids for row, row_ids in zip(dataset, ids)} == scored_ids(made)
    assert "<|end|>" not in str(list(dataset))

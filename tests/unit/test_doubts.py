"""What a reading would read wrongly, or leave out of what a trainer reads, is refused by name, with the way out."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.input import Input
from mapjob.corpus.plan import Plan, make_plan, read_unit
from mapjob.corpus.reader import read_records
from mapjob.errors import InputError

PAIR = {"prompt": "hi", "chosen": "yes", "rejected": "no"}
USER = {"role": "user", "content": "hi"}
SAID = {"role": "assistant", "content": "yes"}


def plan(folder: Path, *rows: dict[str, Any], **keys: Any) -> Plan:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "part.parquet")
    return make_plan(Input(path=str(folder), **keys), True, 100)


def refused(folder: Path, *rows: dict[str, Any], **keys: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        plan(folder, *rows, **keys)
    assert caught.value.do
    return caught.value


def records(made: Plan) -> list:
    return [record for unit in made.units for record in read_records(read_unit(unit), made.corpus.reading)]


@pytest.mark.parametrize(
    "column", ["context", "history", "functions", "documents", "images", "image", "videos", "audio", "System_Message"]
)
def test_a_column_that_a_trainer_reads_is_used_or_ignored_knowingly(tmp_path, column):
    row = {**PAIR, column: "something"}
    given = {} if column != "System_Message" else {"prompt": ["prompt"]}
    assert repr(column) in refused(tmp_path, row, reading=given).what
    made = plan(tmp_path, row, reading={**given, "ignore": [column]})
    assert made.corpus.ignored == (column,)


def test_a_column_of_nulls_alone_is_no_question(tmp_path):
    schema = pa.schema([(name, pa.string()) for name in (*PAIR, "context", "winner")])
    pq.write_table(pa.Table.from_pylist([PAIR] * 3, schema), tmp_path / "part.parquet")
    assert make_plan(Input(path=str(tmp_path)), True, 100).num_rows == 3


@pytest.mark.parametrize("column", ["winner", "label", "choice", "overall_preference", "better_response", "verdict"])
def test_a_column_that_may_be_a_verdict_is_said_to_be_one_or_not(tmp_path, column):
    row = {**PAIR, column: 1}
    error = refused(tmp_path, row)
    assert repr(column) in error.what
    assert f"ignore: [{column}]" in error.do
    assert plan(tmp_path, row, reading={"ignore": [column]}).corpus.reading.verdict is None
    made = plan(tmp_path, row, reading={"verdict": {"column": column, "first": [0], "second": [1]}})
    assert records(made)[0].completions == ["no", "yes"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen_avg_rating", "rejected_avg_rating"),
    ],
)
def test_scores_that_contradict_the_sides_are_asked_about(tmp_path, one, two):
    agree, equal, against = ({**PAIR, one: x, two: y} for x, y in ((2.0, 1.0), (1.0, 1.0), (1.0, 2.0)))
    assert plan(tmp_path, agree, equal).num_rows == 2
    assert f"{one} is lower than {two} in 1 of 3" in refused(tmp_path, agree, equal, against).what
    made = plan(tmp_path, agree, equal, against, reading={"verdict": {"higher": [one, two]}})
    assert [getattr(record, "completions", None) for record in records(made)] == [["yes", "no"], None, ["no", "yes"]]


def test_a_verdict_by_which_all_is_a_tie_is_refused_with_the_values_there(tmp_path):
    row = {"prompt": "hi", "response_a": "yes", "response_b": "no", "winner": "A"}
    error = refused(tmp_path, row, reading={"verdict": {"column": "winner", "first": ["a"], "second": ["b"]}})
    assert "'A'" in error.what


@pytest.mark.parametrize(
    "text",
    ["<|im_start|>user\nhi", "[INST] hi [/INST]", "### Human: hi\n### Assistant: yes", "Human: hi\n\nAssistant: yes"],
)
def test_strings_that_hold_turns_are_named_unless_they_are_meant_so(tmp_path, text):
    row = {**PAIR, "chosen": text}
    assert "of chosen and rejected hold markers of turns" in refused(tmp_path, row).what
    for plain_text in ("raw", "chat"):
        assert records(plan(tmp_path, row, plain_text=plain_text))[0].completions[0] == text


def test_strings_that_hold_json_are_named_unless_they_are_meant_so(tmp_path):
    row = {**PAIR, "chosen": json.dumps({"steps": ["a"]})}
    assert (
        "1 of the first 2 strings of chosen and rejected hold data and not text (JSON)" in refused(tmp_path, row).what
    )
    assert plan(tmp_path, row, plain_text="chat").num_rows == 1


def test_messages_as_json_in_some_rows_alone_are_named(tmp_path):
    error = refused(tmp_path, PAIR, {**PAIR, "chosen": json.dumps([SAID])})
    assert "'chosen' are messages as JSON in 1 of 2" in error.what


def test_answers_that_begin_with_the_prompt_are_named(tmp_path):
    row = {"prompt": "What is it?", "chosen": "What is it? A cat.", "rejected": "What is it? A dog."}
    assert "begin with the prompt again in 1 of 1" in refused(tmp_path, row).what


def test_places_for_images_in_texts_are_named(tmp_path):
    row = {**PAIR, "prompt": "<image>hi"}
    assert "<image>" in refused(tmp_path, row).what


def test_tools_are_given_to_the_template_or_left_out_knowingly(tmp_path):
    row = {**PAIR, "tools": json.dumps([{"name": "look_up"}])}
    made = plan(tmp_path, row)
    assert made.corpus.template_columns == ("tools",)
    assert records(made)[0].template == {"tools": [{"name": "look_up"}]}
    made = plan(tmp_path, row, reading={"ignore": ["tools"]})
    assert (made.corpus.template_columns, records(made)[0].template) == ((), None)


def test_a_prompt_column_adds_a_system_turn_or_earlier_turns_to_whole_dialogues(tmp_path):
    system, before = {"role": "system", "content": "be brief"}, [{"role": "user", "content": "a"}, SAID]
    sides = {"chosen": [USER, SAID], "rejected": [USER, {**SAID, "content": "no"}]}
    assert records(plan(tmp_path, {"system": "be brief", **sides}))[0].prompt == [system, USER]
    assert records(plan(tmp_path, {"prompt": [system, *before, USER], **sides}))[0].prompt == [system, *before, USER]
    assert records(plan(tmp_path, {"prompt": " hi ", **sides}))[0].prompt == [USER]
    assert "not in the prompt of the dialogues" in refused(tmp_path, {"prompt": "another", **sides}).what


def test_turns_that_lie_in_lists_are_interleaved(tmp_path):
    row = {"prompt": ["q1", "q2"], "response_a": ["a1", "a2"], "response_b": ["b1", "b2"], "winner": "b"}
    row = {name: value if name == "winner" else json.dumps(value) for name, value in row.items()}
    verdict = {"column": "winner", "first": ["a"], "second": ["b"]}
    (record,) = records(plan(tmp_path, row, reading={"verdict": verdict}))
    assert record.prompt == [{"role": "user", "content": "q1"}]
    assert [turn["content"] for turn in record.completions[0]] == ["b1", "q2", "b2"]


def test_instruction_and_input_are_one_turn_and_history_comes_before(tmp_path):
    row = {"instruction": "add", "input": "1 + 2", "chosen": "3", "rejected": "4", "history": [["hi", "hello"]]}
    (record,) = records(plan(tmp_path, row))
    assert [(turn["role"], turn["content"]) for turn in record.prompt] == [
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "add\n1 + 2"),
    ]

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
from mapjob.errors import ConfigError, InputError, Reason

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
    assert made.corpus.reading.ignore == (column,)


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
    assert made.corpus.reading.template == ("tools",)
    assert records(made)[0].template == {"tools": [{"name": "look_up"}]}
    made = plan(tmp_path, row, reading={"ignore": ["tools"]})
    assert (made.corpus.reading.template, records(made)[0].template) == ((), None)


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


@pytest.mark.parametrize(
    "column",
    ["chat_history", "previous_turns", "sys prompt", "image_url", "available_tools", "passage", "conversation"],
)
def test_columns_are_known_by_the_words_of_their_names(tmp_path, column):
    value = [USER, {**SAID, "content": "earlier"}] if column == "conversation" else "something"
    rows = {**PAIR, column: value}
    if column == "sys prompt":
        assert records(plan(tmp_path, rows))[0].prompt[0] == {"role": "system", "content": "something"}
    else:
        assert repr(column) in refused(tmp_path, rows).what
        assert plan(tmp_path, rows, reading={"ignore": [column]}).num_rows == 1


def test_a_dialogue_whose_turns_are_in_the_pair_anyway_is_no_question(tmp_path):
    assert plan(tmp_path, {**PAIR, "messages": [USER, SAID]}).num_rows == 1


def test_the_prompt_and_the_answers_are_asked_for_where_two_columns_may_hold_them(tmp_path):
    assert "may both hold the prompt" in refused(tmp_path, {**PAIR, "instruction": "add"}).what
    row = {"question": "hi", "answer_a": "yes", "answer_b": "no", "winner": "a", "answers": ["gold", "old"]}
    assert "may all hold the answers" in refused(tmp_path, row).what
    error = refused(tmp_path, row, reading={"ignore": ["answers"]})
    assert "better answer" in error.what
    row = {**PAIR, "chosen": "gpt-4", "rejected": "llama", "chosen_text": "yes sir", "rejected_text": "no"}
    assert "'chosen'" in refused(tmp_path, row).what
    made = plan(tmp_path, row, reading={"ignore": ["chosen"]})
    assert made.corpus.reading.sides == ("chosen_text", "rejected_text")


@pytest.mark.parametrize(
    ("values", "proposed"),
    [
        ([0, 1, 0], "first: [0], second: [1]"),
        ([1, 2, 1], "first: [1], second: [2]"),
        ([True, False], "first: [true], second: [false]"),
        (["A", "B", "tie"], "first: [A], second: [B]"),
        ([-2, 1, 0], "{sign: winner}"),
        ([0, 1, 2], None),
        ([1, 3, 5], None),
        (["yes", "no"], None),
    ],
)
def test_a_verdict_is_proposed_only_where_values_have_one_meaning(tmp_path, values, proposed):
    rows = [{"prompt": "hi", "answer_a": "yes", "answer_b": "no", "winner": value, "winner_tie": 0} for value in values]
    do = refused(tmp_path, *rows).do
    assert "winner_tie" not in do
    assert (proposed in do) if proposed else ("put it under input" not in do)
    assert not proposed or "are ties)" in do


def test_turns_and_data_inside_of_structs_and_lists_are_seen(tmp_path):
    row = {"prompt": "hi", "responses": ["<|im_start|>assistant\nyes", "<|im_start|>assistant\nno"]}
    assert "markers of turns" in refused(tmp_path, row).what
    row = {"prompt": "hi", "responses": [{"generated_text": "hi there"}, {"generated_text": "hi you"}]}
    assert "begin with the prompt again" in refused(tmp_path, row).what
    row = {**PAIR, "chosen": "[{'role': 'user', 'content': 'hi'}]", "rejected": "[{'role': 'user', 'content': 'no'}]"}
    assert "what Python prints" in refused(tmp_path, row).what


def test_a_struct_with_several_texts_is_read_by_a_path(tmp_path):
    row = {"prompt": "hi", "responses": [{"response": "yes", "text": "a critique"}, {"response": "no", "text": "b"}]}
    with pytest.raises(InputError):
        plan(tmp_path, row)
    made = plan(tmp_path, row, reading={"prompt": ["prompt"], "responses": "responses.response"})
    assert records(made)[0].completions == ["yes", "no"]


def test_reasoning_beside_a_text_in_a_struct_is_kept(tmp_path):
    row = {**PAIR, "chosen": {"content": "yes", "reasoning_content": "so"}, "rejected": {"content": "no"}}
    (record,) = records(plan(tmp_path, row))
    assert record.completions[0] == [{"role": "assistant", "content": "yes", "reasoning_content": "so"}]


def test_messages_by_other_keys_are_read_or_refused(tmp_path):
    sides = {
        name: [{"speaker": "user", "text": "hi"}, {"speaker": "assistant", "text": text}]
        for name, text in (("chosen", "yes"), ("rejected", "no"))
    }
    assert records(plan(tmp_path, sides))[0].completions[0] == [SAID]
    unknown = {name: [{"who": turn["speaker"], "text": turn["text"]} for turn in side] for name, side in sides.items()}
    refused(tmp_path, {"prompt": "hi", **unknown})


def test_a_row_of_json_behind_the_first_rows_is_broken_unless_strings_are_meant_so(tmp_path):
    late = {**PAIR, "chosen": json.dumps([SAID])}
    rows = [PAIR] * 30 + [late]
    assert "unlike the first rows" in records(plan(tmp_path, *rows))[-1].detail
    assert records(plan(tmp_path, *rows, plain_text="chat"))[-1].completions[0] == late["chosen"]


def test_columns_with_dots_in_their_names_are_columns(tmp_path):
    row = {"question": "hi", "response.chosen": "yes", "response.rejected": "no"}
    made = plan(tmp_path, row)
    assert records(made)[0].completions == ["yes", "no"]


def test_an_ignored_column_has_to_exist(tmp_path):
    with pytest.raises(ConfigError, match="'sorce'"):
        plan(tmp_path, {**PAIR, "source": "x"}, reading={"ignore": ["sorce"]})


def test_plain_text_raw_beside_a_system_column_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="raw is for one prompt"):
        plan(tmp_path, {"system": "be brief", **PAIR}, plain_text="raw")


def test_half_a_character_in_json_is_an_error_of_its_row(tmp_path):
    good = {name: json.dumps([{**SAID, "content": name}]) for name in ("chosen", "rejected")}
    rows = [{"prompt": "hi", **good}] * 10 + [
        {"prompt": "hi", **good, "chosen": '[{"role": "assistant", "content": "\\ud83d"}]'}
    ]
    assert records(plan(tmp_path, *rows))[-1].reason == Reason.INVALID_UTF8

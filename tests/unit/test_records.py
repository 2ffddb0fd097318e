"""Every reason for which a row is no record, and the keys by which records are told apart."""

import pyarrow as pa
import pytest

from mapjob.corpus.cells import read_turns
from mapjob.corpus.reader import read_records
from mapjob.corpus.reading import as_chat, read_record
from mapjob.corpus.records import Record, check_record, control_pattern, plain_text, sanitize, strings
from mapjob.errors import Reason, RowError
from tests.readings import READINGS


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def reason(layout: str, row: dict) -> Reason | None:
    """The reason for which the row is refused, None where it is a Record."""
    (record,) = read_records(pa.Table.from_pylist([row]), READINGS[layout])
    return record.reason if isinstance(record, RowError) else None


GOOD = {
    "trl": {"prompt": "p", "chosen": "c", "rejected": "r"},
    "hh": {"chosen": "\n\nHuman: p\n\nAssistant: c", "rejected": "\n\nHuman: p\n\nAssistant: r"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "p"}],
        "chosen": {"from": "gpt", "value": "c"},
        "rejected": {"from": "gpt", "value": "r"},
    },
    "openrlhf": {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
    "ultrafeedback": {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
    "candidates": {"prompt": "p", "responses": ["a", "b", "c"]},
}
CELLS = [(form, name) for form, reading in READINGS.items() for name in reading.columns if form != "ultrafeedback"]


@pytest.mark.parametrize("layout", READINGS)
def test_good_rows_are_records(layout):
    assert reason(layout, GOOD[layout]) is None


@pytest.mark.parametrize(("layout", "name"), CELLS)
def test_null_field(layout, name):
    assert reason(layout, {**GOOD[layout], name: None}) == Reason.NULL_FIELD


# Completions


@pytest.mark.parametrize("blank", ["", " ", "\n\t ", "\u00a0\u2003"])
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_empty_or_blank_completion(side, blank):
    assert reason("trl", {**GOOD["trl"], side: blank}) == Reason.EMPTY_COMPLETION
    with pytest.raises(RowError) as caught:
        check_record(as_chat(Record("p", ["c", blank])))
    assert caught.value.reason == Reason.EMPTY_COMPLETION


def test_empty_completion_of_candidates_names_the_completion():
    with pytest.raises(RowError) as caught:
        check_record(Record("p", ["a", "b", ""]))
    assert caught.value.reason == Reason.EMPTY_COMPLETION
    assert "completion 2" in caught.value.detail


def test_identical_completions():
    assert reason("trl", {**GOOD["trl"], "rejected": "c"}) == Reason.IDENTICAL_COMPLETIONS
    assert (
        reason("openrlhf", {**GOOD["openrlhf"], "rejected": GOOD["openrlhf"]["chosen"]}) == Reason.IDENTICAL_COMPLETIONS
    )
    assert reason("candidates", {"prompt": "p", "responses": ["a", "a", "a"]}) == Reason.IDENTICAL_COMPLETIONS


def test_one_different_candidate_is_enough():
    assert reason("candidates", {"prompt": "p", "responses": ["a", "a", "b"]}) is None


def test_completions_that_differ_in_white_space_only_are_different_text():
    assert reason("trl", {**GOOD["trl"], "rejected": "c "}) is None


def test_hh_completions_that_are_one_text_but_for_white_space():
    """HH turns are stripped when they become messages: the model sees one text twice, and every margin is 0."""
    prompt = "\n\nHuman: p\n\nAssistant:"
    assert reason("hh", {"chosen": f"{prompt} c", "rejected": f"{prompt} c "}) == Reason.IDENTICAL_COMPLETIONS


@pytest.mark.parametrize("responses", [[], ["a"]])
def test_too_few_completions(responses):
    schema = pa.schema([("prompt", pa.string()), ("responses", pa.list_(pa.string()))])
    table = pa.Table.from_pylist([{"prompt": "p", "responses": responses}], schema)
    (error,) = read_records(table, READINGS["candidates"])
    assert error.reason == Reason.TOO_FEW_COMPLETIONS


@pytest.mark.parametrize("response", [None, {"text": None}, {"score": 1.0}])
def test_a_response_without_text_names_its_place(response):
    first = {"text": "a", "score": 0.0} if isinstance(response, dict) else "a"
    with pytest.raises(RowError, match="answer 1") as caught:
        read_record({"prompt": "p", "responses": [first, response]}, READINGS["candidates"])
    assert caught.value.reason == Reason.NULL_FIELD


CALL = {"tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}


@pytest.mark.parametrize("further", [{"reasoning_content": "hm"}, CALL])
def test_thoughts_or_calls_alone_are_a_completion(further):
    for content in ("", None):
        silent = {"role": "assistant", "content": content}
        check_record(Record([user("p")], [[silent | further], [assistant("c")]]))
        with pytest.raises(RowError) as caught:
            check_record(Record([user("p")], [[silent | dict.fromkeys(further) | {"name": "Ann"}], [assistant("c")]]))
        assert caught.value.reason == Reason.EMPTY_COMPLETION


def test_a_pair_may_differ_in_a_further_key_alone():
    sides = [[assistant("c") | {"reasoning_content": thought}] for thought in ("hm", "aha")]
    check_record(Record([user("p")], sides))
    for padding in ({}, {"tool_calls": []}, {"name": None}):
        with pytest.raises(RowError) as caught:
            check_record(Record([user("p")], [sides[0], [sides[0][0] | padding]]))
        assert caught.value.reason == Reason.IDENTICAL_COMPLETIONS


def test_a_person_sees_every_key_of_a_message():
    turns = [user("p"), {"role": "assistant", "content": None, **CALL, "name": None}]
    call = '[{"function": {"arguments": {"a": 1}, "name": "add"}}]'
    assert plain_text(turns, with_roles=True) == f"[user] p\n[assistant, tool_calls] {call}"
    assert plain_text(turns) == f"p\n{call}"


def test_strings_are_found_and_broken_up_at_any_depth():
    control = control_pattern(["<|end|>", "user"])
    turn = {"role": "user", "content": "a<|end|>", "calls": [{"f": ["<|end|>", 1, None]}], "<|end|>": True}
    found = ["content", "a<|end|>", "calls", "f", "<|end|>", "<|end|>"]
    assert list(strings([turn])) == found
    broken = {"role": "user", "content": "a< |end|>", "calls": [{"f": ["< |end|>", 1, None]}], "<|end|>": True}
    assert sanitize([turn], control) == [broken]
    assert turn["content"] == "a<|end|>", "the record stays as it was"


# Messages


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (3, "int instead of text"),
        ([None], "message 0"),
        (["two", "texts"], "2 texts without roles"),
        ([user("p"), {"role": "assistant"}], "message 1: no text"),
        ([{"role": "user", "content": None}], "no text"),
        ([{"role": "user", "content": 3}], "no text"),
        ([{"role": "user", "content": [{"type": "image", "text": None}]}], "a content part that is no text"),
        ([{"role": "critic", "content": "p"}], "role that is none of"),
        ([{"role": None, "content": "p"}], "role None"),
        ([{"role": ["user"], "content": "p"}], "role"),
        ([{"role": {"name": "user"}, "content": "p"}], "role"),
        ({"role": ["user", "assistant"], "content": ["p"]}, "lists of different lengths"),
    ],
)
def test_bad_messages(value, says):
    with pytest.raises(RowError) as caught:
        read_turns(value, "assistant", "chosen")
    assert caught.value.reason == Reason.BAD_MESSAGES
    assert caught.value.detail.startswith("chosen")
    assert says in caught.value.detail


@pytest.mark.parametrize("extra", [{"tool_calls": []}, {"name": "Ann"}, {"weight": 1}, {"reasoning_content": "so"}])
def test_further_keys_of_a_message_are_kept_unless_they_are_null(extra):
    message = {**user("p"), **extra}
    assert read_turns([{**message, "tool_call_id": None}], "user", "prompt") == [message]


def test_a_prompt_that_ends_in_an_assistant_turn():
    row = {"prompt": [user("p"), assistant("so far")], "chosen": [assistant("c")], "rejected": [assistant("r")]}
    assert reason("trl", row) == Reason.BAD_MESSAGES
    turns = [{"from": "human", "value": "p"}, {"from": "gpt", "value": "so far"}]
    assert reason("sharegpt", {**GOOD["sharegpt"], "conversations": turns}) == Reason.BAD_MESSAGES


@pytest.mark.parametrize(
    "completion", [[user("c")], [user("p"), assistant("c")], [assistant("c"), user("and?")], [], user("c")]
)
def test_a_completion_starts_and_ends_with_the_assistant(completion):
    with pytest.raises(RowError) as caught:
        read_record({"prompt": [user("p")], "chosen": completion, "rejected": [assistant("r")]}, READINGS["trl"])
    assert caught.value.reason == Reason.BAD_MESSAGES
    assert "chosen" in caught.value.detail


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_whole_dialogue_ends_with_the_assistant(side):
    row = {**GOOD["openrlhf"], side: [user("p"), assistant("c"), user("and?")]}
    assert reason("openrlhf", row) == Reason.BAD_MESSAGES


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ([user("p"), assistant("c")], [user("another"), assistant("r")]),
        ([assistant("c")], [assistant("r")]),
        ([user("p"), assistant("c")], [{"role": "system", "content": "s"}, user("p"), assistant("r")]),
    ],
)
def test_whole_dialogues_need_a_common_start(chosen, rejected):
    assert reason("openrlhf", {"chosen": chosen, "rejected": rejected}) == Reason.BAD_MESSAGES


@pytest.mark.parametrize(
    "turn", [{"from": "tool", "value": "c"}, {"from": "human", "value": "c"}, {"from": "gpt", "value": None}]
)
def test_sharegpt_turns_that_are_no_answer(turn):
    assert reason("sharegpt", {**GOOD["sharegpt"], "chosen": turn}) == Reason.BAD_MESSAGES


def test_a_sharegpt_role_that_is_no_string():
    with pytest.raises(RowError):
        read_record({**GOOD["sharegpt"], "chosen": {"from": ["gpt"], "value": "c"}}, READINGS["sharegpt"])


@pytest.mark.parametrize(
    "chosen",
    [
        "no turns at all",
        "Human: p\n\nAssistant: c",
        "preface\n\nHuman: p\n\nAssistant: c",
        "\n\nHuman: p",
        "\n\nHuman: p\n\nAssistant: c\n\nHuman: and?",
        "\n\nHuman: another\n\nAssistant: c",
        "\n\nHuman:  p\n\nAssistant: c",
    ],
)
def test_hh_dialogues_that_cannot_be_split(chosen):
    assert reason("hh", {**GOOD["hh"], "chosen": chosen}) == Reason.BAD_MESSAGES


# Keys

DIFFERENT = [
    Record("p", ["a", "b"]),
    Record("p", ["b", "a"]),
    Record("p", ["a", "b", "c"]),
    Record("p", ["a", "bc"]),
    Record("p", ["ab", "c"]),
    Record("pa", ["", "b"]),
    Record("p ", ["a", "b"]),
    Record("P", ["a", "b"]),
    Record("p", ['a","b', "c"]),
    Record("p\u0301", ["a", "b"]),
    Record("\U0001f642", ["a", "b"]),
    Record("\\ud83d\\ude42", ["a", "b"]),
    as_chat(Record("p", ["a", "b"])),
    Record([{"role": "system", "content": "p"}], as_chat(Record("p", ["a", "b"])).completions),
    Record([user("p"), user("")], as_chat(Record("p", ["a", "b"])).completions),
]


def test_content_keys_of_different_content_differ():
    keys = [record.content_key for record in DIFFERENT]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {16}


def test_content_keys_of_equal_content_are_equal():
    for record in DIFFERENT:
        assert Record(record.prompt, list(record.completions)).content_key == record.content_key
    reordered = [{"content": "p", "role": "user"}]
    (message,) = read_turns(reordered, "user", "prompt")
    assert Record([message], ["a", "b"]).content_key == Record([user("p")], ["a", "b"]).content_key


def test_keys_are_those_of_earlier_versions():
    """Ids of finished runs, and of the answers of people to them, stay what they are."""
    asked, answers = [user("é")], [[assistant("x")], [assistant("y")]]
    assert Record("p", ["a", "b"]).content_key.hex() == "0be79f864bf903673ec5cf14c8264d1f"
    assert Record(asked, answers).content_key.hex() == "1691a4b426ff436378514f37c0477fe4"
    assert Record(asked, []).prompt_key.hex() == "531aafb0c2ccef895c3b1f6df517b0a6"
    assert Record(asked, answers, template=None, order=(1, 0)).content_key == Record(asked, answers).content_key


TOOLS = {"tools": [{"type": "function", "function": {"name": "add"}}]}
FURTHER = [
    Record([user("p")], [[assistant("a")], [assistant("b")]]),
    Record([user("p")], [[assistant("a") | {"reasoning_content": "r"}], [assistant("b")]]),
    Record([user("p")], [[assistant("a") | {"reasoning_content": ""}], [assistant("b")]]),
    Record([user("p") | {"name": "r"}], [[assistant("a")], [assistant("b")]]),
    Record([user("p")], [[assistant("a")], [assistant("b")]], TOOLS),
    Record([user("p")], [[assistant("a")], [assistant("b")]], TOOLS | {"enable_thinking": False}),
]


def test_further_keys_and_tools_make_another_record():
    assert len({record.content_key for record in FURTHER}) == len(FURTHER)
    assert len({record.completion_keys[0] for record in FURTHER}) == len(FURTHER)
    assert len({record.prompt_key for record in FURTHER}) == 4


@pytest.mark.parametrize("padding", [{"tool_calls": []}, {"name": None}, {"tool_calls": [{"id": None}]}])
def test_what_a_file_fills_up_makes_no_other_record(padding):
    plain = Record([user("p")], [[assistant("a") | {"b": {"x": 1, "y": 2}}], [assistant("b")]])
    filled_up = [assistant("a") | {"b": {"y": 2, "z": None, "x": 1}} | padding], [assistant("b")]
    padded = Record([user("p") | padding], list(filled_up))
    assert padded.content_key == plain.content_key
    assert padded.completion_keys == plain.completion_keys
    assert padded.prompt_key == plain.prompt_key


def test_prompt_key_is_of_the_prompt_alone():
    assert Record("p", ["a", "b"]).prompt_key == Record("p", ["c", "d"]).prompt_key
    prompts = {record.prompt if isinstance(record.prompt, str) else str(record.prompt) for record in DIFFERENT}
    assert len({record.prompt_key for record in DIFFERENT}) == len(prompts)

"""Readings round-trip: a prompt and its completions, written as a row of each form, are read back as they were."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mapjob.corpus.reader import read_records, read_rows
from mapjob.corpus.reading import as_chat
from mapjob.corpus.records import Record
from mapjob.errors import Reason, RowError
from tests.readings import READINGS

HARD = [
    "🙂",
    "👩‍👩‍👧",
    "مرحبا بالعالم",
    "שלום",
    "\0",
    "\n",
    "\r\n",
    "\n\n",
    "\t",
    "\u2028",
    "\ufeff",
    "\x1b[31m",
    "e\u0301",
]
MARKUP = ["<|end|>", "<|im_start|>user\n", "</s>", "[INST]", "{{ bos_token }}", "<b>", "&amp;", '"', "\\n", "Human:"]

text = st.lists(st.text(max_size=8) | st.sampled_from(HARD + MARKUP), max_size=5).map("".join)
filled = text.filter(str.strip)


def two_or_more(element: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(element, min_size=2, max_size=5).filter(lambda texts: any(t != texts[0] for t in texts))


pair_of_texts = st.lists(filled, min_size=2, max_size=2, unique=True)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@st.composite
def prompts(draw) -> list[dict[str, str]]:
    """A system turn or none, then any number of exchanges, then the user's turn."""
    turns = [turn("system", draw(text))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        turns += [turn("user", draw(text)), turn("assistant", draw(text))]
    return [*turns, turn("user", draw(text))]


@st.composite
def answers(draw, first: str) -> list[dict[str, str]]:
    """An assistant turn, sometimes with another exchange behind it."""
    more = [turn("user", draw(text)), turn("assistant", draw(text))] if draw(st.booleans()) else []
    return [turn("assistant", first), *more]


@st.composite
def dialogues(draw) -> Record:
    return Record(draw(prompts()), [draw(answers(first)) for first in draw(pair_of_texts)])


@st.composite
def single_answers(draw) -> Record:
    return Record(draw(prompts()), [[turn("assistant", answer)] for answer in draw(pair_of_texts)])


strings = st.builds(Record, text, pair_of_texts)


def read(layout: str, rows: list[dict], schema: pa.Schema | None = None) -> list[Record | RowError]:
    return read_records(pa.Table.from_pylist(rows, schema), READINGS[layout])


@given(st.lists(strings, min_size=1, max_size=4))
def test_trl_strings(records):
    rows = [{"prompt": r.prompt, "chosen": r.completions[0], "rejected": r.completions[1]} for r in records]
    assert read("trl", rows) == records


@given(st.lists(dialogues(), min_size=1, max_size=4))
def test_trl_messages(records):
    rows = [{"prompt": r.prompt, "chosen": r.completions[0], "rejected": r.completions[1]} for r in records]
    assert read("trl", rows) == records


@given(single_answers())
def test_trl_messages_with_plain_completions(record):
    chosen, rejected = (completion[0]["content"] for completion in record.completions)
    assert read("trl", [{"prompt": record.prompt, "chosen": chosen, "rejected": rejected}]) == [record]


@given(strings)
def test_trl_plain_prompt_with_completions_as_messages(record):
    chosen, rejected = as_chat(record).completions
    assert read("trl", [{"prompt": record.prompt, "chosen": chosen, "rejected": rejected}]) == [as_chat(record)]


@pytest.mark.parametrize("layout", ["openrlhf", "ultrafeedback"])
@given(records=st.lists(dialogues(), min_size=1, max_size=4))
def test_whole_dialogues(layout, records):
    rows = [{"chosen": r.prompt + r.completions[0], "rejected": r.prompt + r.completions[1]} for r in records]
    if layout == "ultrafeedback":
        rows = [{"prompt": r.prompt[-1]["content"], "score_chosen": 8.0, **row} for r, row in zip(records, rows)]
    assert read(layout, rows) == records


@given(dialogues(), text, text)
def test_whole_dialogues_that_share_an_answer_part_at_the_last_common_one(record, answer, question):
    """The prompt is the longest common start, so a shared first answer belongs to it."""
    shared = [turn("assistant", answer), turn("user", question)]
    row = {name: record.prompt + shared + c for name, c in zip(("chosen", "rejected"), record.completions)}
    assert read("openrlhf", [row]) == [Record(record.prompt + shared, record.completions)]


@given(dialogues(), text, st.lists(text, min_size=2, max_size=2, unique=True))
def test_whole_dialogues_that_part_at_a_users_turn_share_the_prompt_before_the_last_common_answer(
    record, answer, questions
):
    """A completion is opened by the assistant, also where the two dialogues are the same for longer."""
    ends = [[turn("assistant", answer), turn("user", q), *c] for q, c in zip(questions, record.completions)]
    row = {"chosen": record.prompt + ends[0], "rejected": record.prompt + ends[1]}
    assert read("openrlhf", [row]) == [Record(record.prompt, ends)]


@given(st.lists(single_answers(), min_size=1, max_size=4), st.booleans())
def test_sharegpt(records, modern):
    names = {"user": "user", "assistant": "assistant"} if modern else {"user": "human", "assistant": "gpt"}

    def said(message: dict[str, str]) -> dict[str, str]:
        return {"from": names.get(message["role"], message["role"]), "value": message["content"]}

    rows = [
        {
            "conversations": [said(message) for message in r.prompt],
            "chosen": said(r.completions[0][0]),
            "rejected": said(r.completions[1][0]),
        }
        for r in records
    ]
    assert read("sharegpt", rows) == records


@given(text, two_or_more(filled), st.sampled_from([None, "text", "content", "response", "completion"]))
def test_candidates(prompt, responses, field):
    values = responses if field is None else [{"model": "m", field: response, "score": 0.5} for response in responses]
    assert read("candidates", [{"prompt": prompt, "responses": values}]) == [Record(prompt, responses)]


@given(prompts(), two_or_more(filled))
def test_candidates_of_a_dialogue(prompt, responses):
    record = Record(prompt, [[turn("assistant", response)] for response in responses])
    assert read("candidates", [{"prompt": prompt, "responses": responses}]) == [record]


# Anthropic HH

TURN = re.compile(r"\n\n(Human|Assistant):")
hh_text = text.filter(lambda said: not TURN.search(f" {said}"))
hh_exchanges = st.lists(st.tuples(hh_text, hh_text), max_size=2)
hh_answers = st.lists(hh_text.filter(str.strip), min_size=2, max_size=2, unique=True)


def hh_prompt(exchanges: list[tuple[str, str]], question: str) -> str:
    before = "".join(f"\n\nHuman: {asked}\n\nAssistant: {answered}" for asked, answered in exchanges)
    return f"{before}\n\nHuman: {question}\n\nAssistant:"


@given(hh_exchanges, hh_text, hh_answers)
def test_hh_strings(exchanges, question, answers):
    prompt, completions = hh_prompt(exchanges, question), [f" {answer}" for answer in answers]
    row = {"chosen": prompt + completions[0], "rejected": prompt + completions[1]}
    assert read("hh", [row]) == [Record(prompt, completions)]


@given(hh_exchanges, hh_text, hh_answers, hh_text, hh_answers)
def test_hh_completions_of_different_length(exchanges, question, answers, next_question, next_answers):
    assume(answers[0].strip() != answers[1].strip())
    prompt, longer = hh_prompt(exchanges, question), hh_prompt([], next_question)
    completions = [f" {answers[0]}{longer} {next_answers[0]}", f" {answers[1]}"]
    assert read("hh", [{"chosen": prompt + completions[0], "rejected": prompt + completions[1]}]) == [
        Record(prompt, completions)
    ]


@given(hh_exchanges, hh_text, hh_answers)
def test_hh_as_chat(exchanges, question, answers):
    assume(answers[0].strip() != answers[1].strip())
    prompt = hh_prompt(exchanges, question)
    (record,) = read("hh", [{"chosen": f"{prompt} {answers[0]}", "rejected": f"{prompt} {answers[1]}"}])
    turns = [turn(role, said.strip()) for pair in exchanges for role, said in zip(("user", "assistant"), pair)]
    expected = Record(
        [*turns, turn("user", question.strip())], [[turn("assistant", answer.strip())] for answer in answers]
    )
    assert as_chat(record) == expected


def test_hh_real_dialogues_lose_no_character(shared):
    """The cut lies in the text itself: prompt + completion is the dialogue as Anthropic published it."""
    dialogues, records = [], []
    for file in sorted((shared / "data" / "hh_harmless_test").glob("*.parquet")):
        table = pq.read_table(file)
        dialogues += zip(table["chosen"].to_pylist(), table["rejected"].to_pylist())
        records += read_records(table, READINGS["hh"])
    good = [(pair, record) for pair, record in zip(dialogues, records) if isinstance(record, Record)]
    assert len(good) > 0.97 * len(records) > 2000
    for pair, record in good:
        assert tuple(record.prompt + completion for completion in record.completions) == pair
        assert record.prompt.endswith("\n\nAssistant:")
        chat = as_chat(record)
        assert chat.prompt[-1]["role"] == "user"
        assert all(completion[0]["role"] == completion[-1]["role"] == "assistant" for completion in chat.completions)


# Storage types

STRING_KINDS = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


def through_parquet(table: pa.Table, folder, row_group_size: int) -> pa.Table:
    pq.write_table(table, folder / "rows.parquet", row_group_size=row_group_size)
    return read_rows(str(folder / "rows.parquet"), 0, table.num_rows)


@pytest.mark.parametrize("kind", STRING_KINDS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(strings, min_size=1, max_size=5), row_group_size=st.integers(1, 3))
def test_strings_through_parquet(tmp_path, kind, records, row_group_size):
    columns = zip(*[(r.prompt, *r.completions) for r in records])
    table = pa.table(dict(zip(("prompt", "chosen", "rejected"), (pa.array(c, pa.string()) for c in columns))))
    table = table.cast(pa.schema([(name, STRING_KINDS[kind]) for name in table.column_names]))
    read_back = through_parquet(table, tmp_path, row_group_size)
    assert read_back.schema.field("prompt").type == STRING_KINDS[kind]
    assert read_records(read_back, READINGS["trl"]) == records


@pytest.mark.parametrize("large", [False, True])
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(dialogues(), min_size=1, max_size=5), row_group_size=st.integers(1, 3))
def test_messages_through_parquet(tmp_path, large, records, row_group_size):
    string, wrap = (pa.large_string(), pa.large_list) if large else (pa.string(), pa.list_)
    messages = wrap(pa.struct([("role", string), ("content", string)]))
    rows = [{"chosen": r.prompt + r.completions[0], "rejected": r.prompt + r.completions[1]} for r in records]
    table = pa.Table.from_pylist(rows, pa.schema([("chosen", messages), ("rejected", messages)]))
    assert read_records(through_parquet(table, tmp_path, row_group_size), READINGS["openrlhf"]) == records


# Nonsense

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "text", "tool_calls"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("layout", READINGS)
@given(data=st.data())
def test_any_value_in_any_column_is_a_record_or_a_row_error(layout, data):
    """A row of the wrong shape goes to errors/ with its reason; it never ends the run."""
    row = {name: data.draw(values | st.binary(max_size=3), name) for name in READINGS[layout].columns}
    try:
        table = pa.Table.from_pylist([row])
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        assume(False)
    (record,) = read_records(table, READINGS[layout])
    if isinstance(record, RowError):
        assert record.reason in Reason
    else:
        kind = str if isinstance(record.prompt, str) else list
        assert all(isinstance(completion, kind) for completion in record.completions)
        assert len(record.completions) >= 2


@pytest.mark.parametrize("responses", ["letters", {"response_a": "x", "response_b": "y"}, 5])
def test_responses_that_are_no_list_are_a_row_error(responses):
    """The letters of a string, or the names of a struct's fields, are no responses."""
    (record,) = read("candidates", [{"prompt": "p", "responses": responses}])
    assert isinstance(record, RowError), json.dumps(record.completions)


def test_text_that_is_not_utf8_is_an_error_of_its_row():
    """Parquet writers other than Arrow put any bytes into a string column; one such row must not end the run."""
    raw = pa.array([b"caf\xe9", b"fine"])
    prompt = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    table = pa.table({"prompt": prompt, "chosen": ["a", "a"], "rejected": ["b", "b"]})
    bad, good = read_records(table, READINGS["trl"])
    assert isinstance(bad, RowError)
    assert good == Record("fine", ["a", "b"])

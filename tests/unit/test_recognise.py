"""Which reading a corpus has, and how plain text is read: from schema and first rows, or as the run file says."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mapjob.config.input import Input
from mapjob.corpus.plan import Plan, make_plan
from mapjob.corpus.recognise import to_yaml
from mapjob.errors import ConfigError, InputError
from tests.readings import READINGS

USER, ASSISTANT, OTHER = (
    {"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "yes"), ("assistant", "no"))
)
HH = "\n\nHuman: hi\n\nAssistant: "

ROWS = {
    "trl strings": ("trl", {"prompt": "hi", "chosen": "yes", "rejected": "no"}),
    "trl messages": ("trl", {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]}),
    "trl multi-turn completion": ("trl", {"prompt": [USER], "chosen": [ASSISTANT, USER, OTHER], "rejected": [OTHER]}),
    "ultrafeedback": ("ultrafeedback", {"prompt": "hi", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}),
    "openrlhf": ("openrlhf", {"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}),
    "hh": ("hh", {"chosen": f"{HH}yes", "rejected": f"{HH}no"}),
    "sharegpt": (
        "sharegpt",
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
        },
    ),
    "candidates strings": ("candidates", {"prompt": "hi", "responses": ["yes", "no"]}),
    "candidates structs": ("candidates", {"prompt": "hi", "responses": [{"text": "yes"}, {"text": "no"}]}),
}


def corpus(folder: Path, *rows: dict, name: str = "part.parquet") -> str:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / name)
    return str(folder)


def plan(path: str, policy_has_template: bool = True, **keys) -> Plan:
    return make_plan(Input(path=path, **keys), policy_has_template, rows_per_unit=100)


@pytest.mark.parametrize("name", ROWS)
def test_recognised_in_a_file_among_columns_of_the_users_own(tmp_path, name):
    form, row = ROWS[name]
    made = plan(corpus(tmp_path, {"id": 7, "source": "forum", **row}, {"id": 8, "source": "forum", **row}))
    assert made.corpus.reading == READINGS[form]


@pytest.mark.parametrize("name", ROWS)
def test_a_null_in_the_first_row_does_not_hide_the_reading(tmp_path, name):
    form, row = ROWS[name]
    assert plan(corpus(tmp_path, dict.fromkeys(row), row)).corpus.reading == READINGS[form]


@pytest.mark.parametrize(
    ("folder", "form", "num_rows"),
    [
        ("alpaca_eval_pairs", "trl", 37_003),
        ("alpaca_eval_candidates", "candidates", 805),
        ("hh_harmless_test", "hh", 2_312),
        ("sharegpt_dpo_demo", "sharegpt", 300),
    ],
)
def test_real_corpora(shared, folder, form, num_rows):
    made = plan(str(shared / "data" / folder))
    assert (made.corpus.reading, made.num_rows, made.corpus.style) == (READINGS[form], num_rows, "chat")


def test_the_run_file_overrules_what_would_be_recognised(tmp_path):
    path = corpus(tmp_path, ROWS["ultrafeedback"][1])
    assert plan(path).corpus.reading.prompt == ("prompt",)
    assert plan(path, reading={"prompt": []}).corpus.reading.prompt == ()


def test_the_yaml_that_is_printed_gives_the_same_reading(tmp_path):
    row = {"system": "be brief", "question": "hi", "response_a": "yes", "response_b": "no", "winner": "b"}
    verdict = {"column": "winner", "first": ["a"], "second": ["b"]}
    made = plan(corpus(tmp_path, row), reading={"verdict": verdict}).corpus.reading
    printed = yaml.safe_load("input:\n" + to_yaml(made))["input"]["reading"]
    assert plan(str(tmp_path), reading=printed).corpus.reading == made
    assert printed["prompt"] == ["system", "question"]


def test_columns_of_other_names_are_named_in_the_run_file(tmp_path):
    row = {"request": "hi", "first try": "yes", "second try": "no", "prompt": "another thing"}
    made = plan(corpus(tmp_path, row), reading={"prompt": ["request"], "sides": ["first try", "second try"]})
    assert made.corpus.text_columns == ["request", "first try", "second try"]


@pytest.mark.parametrize("names", [("better", "worse"), ("preferred", "rejected"), ("win_response", "lose_response")])
def test_words_for_better_and_worse_are_sides(tmp_path, names):
    row = {"question": "hi", names[0]: "yes", names[1]: "no", "preferred_model": "m"}
    made = plan(corpus(tmp_path, row), reading={"ignore": ["preferred_model"]})
    assert made.corpus.reading.sides == names


@pytest.mark.parametrize("paths", ["prompt", "sides"])
def test_a_path_that_the_corpus_lacks_is_named_beside_the_columns_there_are(tmp_path, paths):
    path = corpus(tmp_path, {**ROWS["trl strings"][1], "source": "forum"})
    given = {"prompt": {"prompt": ["no_such"]}, "sides": {"sides": ["chosen", "source.no_such"]}}[paths]
    with pytest.raises(ConfigError, match="no_such") as caught:
        plan(path, reading=given)
    assert "prompt, chosen, rejected, source" in str(caught.value)


@pytest.mark.parametrize("key", ["id", "group"])
def test_a_wrong_column_is_named_beside_those_there_are(tmp_path, key):
    path = corpus(tmp_path, {**ROWS["trl strings"][1], "source": "forum"})
    with pytest.raises(ConfigError) as caught:
        plan(path, columns={key: "no_such_column"})
    assert "'no_such_column'" in caught.value.what
    assert "prompt, chosen, rejected, source" in str(caught.value)


def test_a_later_file_without_a_column_is_named(tmp_path):
    corpus(tmp_path, ROWS["trl strings"][1], name="a.parquet")
    path = corpus(tmp_path, {"prompt": "hi", "chosen": "yes"}, name="b.parquet")
    with pytest.raises(ConfigError, match="'rejected'") as caught:
        plan(path)
    assert caught.value.where.endswith("b.parquet")


def test_a_system_column_may_be_missing_in_some_files(tmp_path):
    corpus(tmp_path, ROWS["trl strings"][1], name="a.parquet")
    made = plan(corpus(tmp_path, {"system": "be brief", **ROWS["trl strings"][1]}, name="b.parquet"))
    assert made.corpus.reading.prompt == ("system", "prompt")


@pytest.mark.parametrize(
    "row",
    [
        {"text": "hello"},
        {"prompt": "hi", "completion": "yes"},
        {"prompt": "hi", "completion": "yes", "label": True},
        {"messages": [USER, ASSISTANT]},
        {"chosen": "no turns", "rejected": "at all"},
        {"chosen": None, "rejected": None},
    ],
)
def test_a_corpus_without_a_reading_is_an_input_error_that_lists_the_columns(tmp_path, row):
    with pytest.raises(InputError) as caught:
        plan(corpus(tmp_path, row))
    assert ", ".join(row) in caught.value.what
    assert caught.value.do


def test_two_columns_of_one_needed_name_are_refused(tmp_path):
    table = pa.table([["hi"], ["yes"], ["no"], ["no"]], ["prompt", "chosen", "rejected", "rejected"])
    pq.write_table(table, tmp_path / "part.parquet")
    with pytest.raises(InputError, match="'rejected'"):
        plan(str(tmp_path))


@pytest.mark.parametrize("name", ["trl strings", "hh", "candidates strings"])
@pytest.mark.parametrize(
    ("plain_text", "policy_has_template", "style"),
    [
        ("auto", True, "chat"),
        ("auto", False, "raw"),
        ("chat", True, "chat"),
        ("chat", False, "chat"),
        ("raw", True, "raw"),
        ("raw", False, "raw"),
    ],
)
def test_style_of_plain_strings(tmp_path, name, plain_text, policy_has_template, style):
    made = plan(corpus(tmp_path, ROWS[name][1]), policy_has_template, plain_text=plain_text)
    assert made.corpus.style == style
    assert made.why_style


@pytest.mark.parametrize("name", ["trl messages", "openrlhf", "ultrafeedback", "sharegpt"])
@pytest.mark.parametrize("policy_has_template", [True, False])
def test_messages_are_always_read_as_chat(tmp_path, name, policy_has_template):
    assert plan(corpus(tmp_path, ROWS[name][1]), policy_has_template).corpus.style == "chat"

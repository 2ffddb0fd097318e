"""Which layout a corpus has, and how plain text is read: from schema and first rows, or as the run file says."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.run import Columns, Input
from mapjob.corpus.layouts import recognise
from mapjob.corpus.plan import Plan, make_plan
from mapjob.errors import ConfigError, InputError

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
def test_recognised_from_schema_and_head(name):
    layout, row = ROWS[name]
    recognised, why = recognise(pa.Table.from_pylist([row]).schema, [row], Columns(), "here")
    assert recognised == layout
    assert why


@pytest.mark.parametrize("name", ROWS)
def test_recognised_in_a_file_among_columns_of_the_users_own(tmp_path, name):
    layout, row = ROWS[name]
    made = plan(corpus(tmp_path, {"id": 7, "source": "forum", **row}, {"id": 8, "source": "forum", **row}))
    assert made.corpus.layout == layout


@pytest.mark.parametrize("name", ROWS)
def test_a_null_in_the_first_row_does_not_hide_the_layout(tmp_path, name):
    layout, row = ROWS[name]
    assert plan(corpus(tmp_path, dict.fromkeys(row), row)).corpus.layout == layout


@pytest.mark.parametrize(
    ("folder", "layout", "num_rows"),
    [
        ("alpaca_eval_pairs", "trl", 37_003),
        ("alpaca_eval_candidates", "candidates", 805),
        ("hh_harmless_test", "hh", 2_312),
        ("sharegpt_dpo_demo", "sharegpt", 300),
    ],
)
def test_real_corpora(shared, folder, layout, num_rows):
    made = plan(str(shared / "data" / folder))
    assert (made.corpus.layout, made.num_rows, made.corpus.style) == (layout, num_rows, "chat")


def test_the_run_file_overrules_what_would_be_recognised(tmp_path):
    path = corpus(tmp_path, ROWS["ultrafeedback"][1])
    assert plan(path).corpus.layout == "ultrafeedback"
    made = plan(path, layout="openrlhf")
    assert made.corpus.layout == "openrlhf"
    assert made.why[0] == "as the run file says"


def test_renamed_columns_are_recognised_and_read(tmp_path):
    row = {"question": "hi", "better": "yes", "worse": "no", "prompt_tokens": 3}
    made = plan(corpus(tmp_path, row), columns={"prompt": "question", "chosen": "better", "rejected": "worse"})
    assert made.corpus.layout == "trl"
    assert made.corpus.text_columns == ["question", "better", "worse"]


def test_a_renamed_column_stands_for_one_that_has_the_layouts_name(tmp_path):
    """`chosen` is a number here; the layout is seen from the column that the run file names instead."""
    row = {"best": [USER, ASSISTANT], "rejected": [USER, OTHER], "chosen": 0}
    assert plan(corpus(tmp_path, row), columns={"chosen": "best"}).corpus.layout == "openrlhf"


@pytest.mark.parametrize("key", ["prompt", "chosen", "rejected", "id", "group"])
def test_a_wrong_column_is_named_beside_those_there_are(tmp_path, key):
    path = corpus(tmp_path, {**ROWS["trl strings"][1], "source": "forum"})
    with pytest.raises(ConfigError) as caught:
        plan(path, columns={key: "no_such_column"})
    assert "'no_such_column'" in caught.value.what
    assert "prompt, chosen, rejected, source" in str(caught.value)


def test_a_layout_whose_columns_are_missing_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="'conversations'"):
        plan(corpus(tmp_path, ROWS["trl strings"][1]), layout="sharegpt")


def test_a_later_file_without_a_column_is_named(tmp_path):
    corpus(tmp_path, ROWS["trl strings"][1], name="a.parquet")
    path = corpus(tmp_path, {"prompt": "hi", "chosen": "yes"}, name="b.parquet")
    with pytest.raises(ConfigError, match="'rejected'") as caught:
        plan(path)
    assert caught.value.where.endswith("b.parquet")


@pytest.mark.parametrize(
    "row",
    [
        {"text": "hello"},
        {"prompt": "hi", "completion": "yes"},
        {"chosen": "no turns", "rejected": "at all"},
        {"chosen": None, "rejected": None},
    ],
)
def test_an_unknown_layout_is_an_input_error_that_lists_the_columns(tmp_path, row):
    with pytest.raises(InputError, match="no known layout") as caught:
        plan(corpus(tmp_path, row))
    assert ", ".join(row) in caught.value.what
    assert "input.layout" in caught.value.do


def test_two_columns_of_one_needed_name_are_refused(tmp_path):
    table = pa.table([["hi"], ["yes"], ["no"], ["no"]], ["prompt", "chosen", "rejected", "rejected"])
    pq.write_table(table, tmp_path / "part.parquet")
    with pytest.raises(InputError, match="'rejected'"):
        plan(str(tmp_path), layout="trl")


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
    assert made.why[1]


@pytest.mark.parametrize("name", ["trl messages", "openrlhf", "ultrafeedback", "sharegpt"])
@pytest.mark.parametrize("policy_has_template", [True, False])
def test_messages_are_always_read_as_chat(tmp_path, name, policy_has_template):
    assert plan(corpus(tmp_path, ROWS[name][1]), policy_has_template).corpus.style == "chat"

"""The layouts of a selection on pairs alone: what is written, what is refused, and that it reads back as it was."""

import json
from typing import Any

import pyarrow as pa
import pytest

from mapjob.config.input import Columns
from mapjob.corpus.plan import Corpus
from mapjob.errors import ConfigError
from mapjob.selection.formats import Pair, extra_files, pair_columns, read_pair
from tests.readings import READINGS

CORPUS = Corpus(READINGS["trl"], Columns(), "chat")
SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "p"}
SAID = {"role": "assistant", "content": "a"}
MORE = {"role": "user", "content": "and?"}
CHOSEN, REJECTED = [{"role": "assistant", "content": "c"}], [{"role": "assistant", "content": "r"}]

PROMPTS = {
    "one turn": [USER],
    "system": [SYSTEM, USER],
    "three turns": [USER, SAID, MORE],
    "system, three turns": [SYSTEM, USER, SAID, MORE],
}
TRAINERS = ("trl", "openrlhf", "llama_factory")


def written(output_format: str, *pairs: Pair) -> pa.Table:
    style = "raw" if isinstance(pairs[0].prompt, str) else "chat"
    return pa.table(pair_columns(output_format, style, pairs, lambda i: f"shard.parquet, row {7 + i}"))


def row(output_format: str, pair: Pair) -> dict[str, Any]:
    (one,) = written(output_format, pair).to_pylist()
    return one


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_openrlhf_has_whole_dialogues(prompt):
    expected = {"chosen": [*prompt, *CHOSEN], "rejected": [*prompt, *REJECTED]}
    assert row("openrlhf", Pair(prompt, CHOSEN, REJECTED)) == expected


def test_llama_factory_has_turns_that_end_on_the_human():
    assert row("llama_factory", Pair(PROMPTS["system, three turns"], CHOSEN, REJECTED)) == {
        "conversations": [
            {"from": "system", "value": "be brief"},
            {"from": "human", "value": "p"},
            {"from": "gpt", "value": "a"},
            {"from": "human", "value": "and?"},
        ],
        "chosen": {"from": "gpt", "value": "c"},
        "rejected": {"from": "gpt", "value": "r"},
    }


@pytest.mark.parametrize("output_format", TRAINERS)
def test_strings_stay_three_strings(output_format):
    assert row(output_format, Pair("p", "c", "r")) == {"prompt": "p", "chosen": "c", "rejected": "r"}


@pytest.mark.parametrize("output_format", TRAINERS)
@pytest.mark.parametrize("prompt", ["p", *PROMPTS.values()], ids=["string", *PROMPTS])
def test_a_pair_reads_back_as_it_was(output_format, prompt):
    pair = Pair(prompt, "c", "r") if prompt == "p" else Pair(prompt, CHOSEN, REJECTED)
    corpus = Corpus(READINGS["hh"], Columns(id="their id"), "raw" if prompt == "p" else "chat")
    assert read_pair(written(output_format, pair), output_format, corpus) == pair


@pytest.mark.parametrize("output_format", TRAINERS)
@pytest.mark.parametrize("style", ["chat", "raw"])
def test_no_pairs_have_the_columns_of_some(output_format, style):
    some = Pair("p", "c", "r") if style == "raw" else Pair([USER], CHOSEN, REJECTED)
    none = pa.table(pair_columns(output_format, style, [], str))
    assert none.num_rows == 0
    assert none.schema == written(output_format, some).schema


SEVERAL = [*CHOSEN, MORE, *CHOSEN]
MISREAD = {
    "chosen of several messages": ("openrlhf llama_factory", Pair([USER], SEVERAL, REJECTED), "several messages"),
    "rejected of several messages": ("openrlhf llama_factory", Pair([USER], CHOSEN, SEVERAL), "several messages"),
    "two user turns": ("llama_factory", Pair([USER, MORE], CHOSEN, REJECTED), "alternate"),
    "two user turns and two answers": ("llama_factory", Pair([USER, MORE, SAID], CHOSEN, REJECTED), "alternate"),
    "starts on the assistant": ("llama_factory", Pair([SAID, USER], CHOSEN, REJECTED), "alternate"),
    "ends on the assistant": ("llama_factory", Pair([USER, SAID], CHOSEN, REJECTED), "alternate"),
    "a system message later": ("llama_factory", Pair([USER, SYSTEM, MORE], CHOSEN, REJECTED), "alternate"),
    "two system messages": ("llama_factory", Pair([SYSTEM, SYSTEM, USER], CHOSEN, REJECTED), "alternate"),
    "nobody but the system": ("llama_factory", Pair([SYSTEM], CHOSEN, REJECTED), "alternate"),
    "empty system": (
        "llama_factory",
        Pair([{"role": "system", "content": ""}, USER], CHOSEN, REJECTED),
        "empty system message",
    ),
}


@pytest.mark.parametrize("output_format", TRAINERS)
@pytest.mark.parametrize("case", MISREAD)
def test_what_a_loader_would_lose_is_refused_by_file_and_row(output_format, case):
    refused_by, pair, why = MISREAD[case]
    good = Pair([USER], CHOSEN, REJECTED)
    if output_format not in refused_by.split():
        assert written(output_format, good, pair).num_rows == 2
        return
    with pytest.raises(ConfigError, match=why) as caught:
        written(output_format, good, pair)
    assert output_format in caught.value.what
    assert caught.value.where == "shard.parquet, row 8"
    assert "output_format: trl" in caught.value.do


CALLS = {"tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
FIELDS = pa.schema(
    {
        "reasoning_content": pa.string(),
        "tool_calls": pa.list_(
            pa.struct({"function": pa.struct({"name": pa.string(), "arguments": pa.struct({"a": pa.int64()})})})
        ),
    }
)
THINKING = Pair(
    [USER, {"role": "assistant", "content": None, **CALLS}, {"role": "tool", "content": "3"}],
    [CHOSEN[0] | {"reasoning_content": "hm"}],
    REJECTED,
)


@pytest.mark.parametrize("output_format", ["trl", "openrlhf"])
def test_further_keys_come_through_and_every_message_has_them(output_format):
    columns = pair_columns(output_format, "chat", [THINKING], str, FIELDS)
    table = pa.table(columns)
    for name in table.column_names:
        assert table.schema.field(name).type.value_type.names == ["role", "content", "reasoning_content", "tool_calls"]
    (one,) = table.to_pylist()
    assert one["rejected"][-1] == {**REJECTED[0], "reasoning_content": None, "tool_calls": None}
    assert read_pair(table, output_format, CORPUS) == THINKING
    plain = pa.table(pair_columns(output_format, "chat", [Pair([USER], CHOSEN, REJECTED)], str, FIELDS))
    assert plain.schema == table.schema


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (Pair([USER], [CHOSEN[0] | {"reasoning_content": "hm"}], REJECTED), "the key 'reasoning_content'"),
        (Pair([USER | {"name": "Ann"}], CHOSEN, REJECTED), "the key 'name'"),
        (Pair([USER, SAID | CALLS, USER], CHOSEN, REJECTED), "the key 'tool_calls'"),
        (Pair([USER, SAID, {"role": "tool", "content": "3"}], CHOSEN, REJECTED), "the role tool"),
    ],
)
def test_llama_factory_holds_roles_and_contents_alone(pair, why):
    with pytest.raises(ConfigError, match=why) as caught:
        pair_columns("llama_factory", "chat", [pair], str, FIELDS)
    assert "output_format: trl" in caught.value.do
    empty = Pair([USER | {"name": None, "tool_calls": []}], CHOSEN, REJECTED)
    pair_columns("llama_factory", "chat", [empty], str, FIELDS)


@pytest.mark.parametrize("output_format", ["openrlhf", "llama_factory"])
def test_tools_are_given_to_the_template_by_trl_alone(output_format):
    pair, tools = Pair([USER], CHOSEN, REJECTED), {"tools": [{"name": "add"}]}
    with pytest.raises(ConfigError, match="tools for the chat template") as caught:
        pair_columns(output_format, "chat", [pair, pair], lambda i: f"row {i}", templates=[None, tools])
    assert caught.value.where == "row 1"
    pair_columns(output_format, "chat", [pair, pair], str, templates=[None, {"tools": []}])
    pair_columns("trl", "chat", [pair, pair], str, templates=[None, tools])


def test_texts_come_through_with_their_bytes():
    text = "🙂\0\u2028 \\n {{content}} <|im_end|> “” é e\u0301\r\n\n"
    said = [{"role": "assistant", "content": text}]
    for output_format in TRAINERS:
        pair = Pair([{"role": "user", "content": text}], said, REJECTED)
        assert read_pair(written(output_format, pair), output_format, CORPUS) == pair


@pytest.mark.parametrize("style", ["chat", "raw"])
def test_only_llama_factory_has_a_file_beside_its_rows(style):
    assert {name: extra_files(name, style) for name in ("trl", "openrlhf", "columns")} == {
        "trl": {},
        "openrlhf": {},
        "columns": {},
    }
    (entry,) = json.loads(extra_files("llama_factory", style)["dataset_info.json"]).values()
    assert (entry["file_name"], entry["ranking"]) == ("selected", True)
    columns = {name for name in entry["columns"].values()}
    pair = Pair("p", "c", "r") if style == "raw" else Pair([USER], CHOSEN, REJECTED)
    assert columns == set(row("llama_factory", pair))

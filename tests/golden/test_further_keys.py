"""Messages with further keys, and tools: the tokens that are scored are those that TRL trains on, row by row.

What TRL's trainer is handed is what was written, loaded by `datasets`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from mapjob.config.load import parse_config
from mapjob.config.run import Model
from mapjob.corpus.records import Record
from mapjob.errors import ModelError, Reason, RowError
from mapjob.scoring.encode import Encoder
from mapjob.scoring.model_files import model_files
from mapjob.scoring.spec import ScorerSpec, scorer_files, scorer_specs
from mapjob.scoring.tokenizers import takes_tools
from mapjob.selection.formats import Pair, pair_columns
from tests.fakes import config_tree, make_policy, make_reward, make_thinking_tokenizer, make_tokenizer
from tests.golden.in_process import CORPUS, specs

SYSTEM, ASKED = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is 12 + 30?"}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": "add", "arguments": {"a": 12, "b": 30}}}],
}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}}


def said(text: str | None, **further: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **further}


PAIRS = [
    Pair([ASKED], [said("42")], [said("41")]),
    Pair([SYSTEM, ASKED], [said("42", reasoning_content="12 and 30")], [said("42")]),
    Pair([SYSTEM, ASKED], [said("42", reasoning_content="12 and 30")], [said("42", reasoning_content="a guess")]),
    Pair([ASKED | {"name": "Ann"}, said("What?", reasoning_content="hm"), ASKED], [said("42")], [said("No.")]),
    Pair([ASKED, CALLED, {"role": "tool", "content": "42", "name": "add"}], [said("42")], [said("It is 41.")]),
    Pair([ASKED], [CALLED], [said("42")]),
    Pair([ASKED], [CALLED], [said("", tool_calls=[{"function": {"name": "add", "arguments": {"b": 1}}}])]),
    Pair([ASKED], [said("40"), ASKED, said("42", name="Bob")], [said("40"), ASKED, said("41")]),
    Pair([ASKED, said("42"), ASKED], [said("42")], [said("41", reasoning_content="")]),
]
TEMPLATES: list[dict[str, Any] | None] = [None, {"tools": [TOOL]}, None, None, {"tools": [TOOL, TOOL]}, {"tools": []}]
TEMPLATES += [{"tools": [TOOL]}, None, {"tools": [TOOL]}]
FIELDS = pa.schema(
    {
        "name": pa.string(),
        "reasoning_content": pa.string(),
        "tool_calls": pa.array([CALLED["tool_calls"]]).type,
    }
)
KEYS = tuple(FIELDS.names)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("thinking") / "policy", "qwen3", make_thinking_tokenizer())


@pytest.fixture(scope="module")
def spec(policy: Path) -> ScorerSpec:
    return specs(policy, make_reward(policy.parent / "reward", "llama", make_thinking_tokenizer()), "chat")["policy"]


def ids_by_trl(policy: Path, dataset: Dataset, folder: Path) -> list[tuple[list[int], ...]]:
    """Prompt, chosen and rejected of each row, as token ids of TRL's trainer."""
    arguments = DPOConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], max_length=1024)
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy),
        args=arguments,
        processing_class=AutoTokenizer.from_pretrained(policy),
        train_dataset=dataset,
    )
    rows = trainer.train_dataset
    return list(zip(*(rows[f"{name}_ids"] for name in Pair._fields)))


def records_of(pairs: list[Pair], templates: list[dict[str, Any] | None]) -> list[Record]:
    return [Record(pair.prompt, [pair.chosen, pair.rejected], given) for pair, given in zip(pairs, templates)]


@pytest.mark.trl
@pytest.mark.parametrize("given", ["nothing", "tools", "tools as JSON", "chat_template_kwargs"])
def test_scored_tokens_are_those_of_trl(policy, spec, tmp_path, given):
    templates = TEMPLATES if given.startswith("tools") else [None] * len(PAIRS)
    columns = pair_columns("trl", "chat", PAIRS, str, FIELDS)
    if given == "chat_template_kwargs":
        templates = [{"enable_thinking": i % 2 == 0} for i in range(len(PAIRS))]
        columns[given] = pa.chunked_array([templates])
    elif templates is TEMPLATES:
        tools = [given and given["tools"] for given in TEMPLATES]
        columns["tools"] = pa.chunked_array([tools])
        if given == "tools as JSON":
            columns["tools"] = pa.chunked_array([[None if value is None else json.dumps(value) for value in tools]])
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    dataset = load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), split="train")
    types = [*FIELDS, *(pa.field(name, columns[name].type) for name in columns.keys() & {"tools", given})]
    corpus = replace(CORPUS, message_keys=KEYS, types=pa.schema(types))
    encoded = Encoder(spec.encoding, corpus).encode(records_of(PAIRS, templates))
    ours = [tuple(part.tolist() for part in (item.prompt, *item.completions)) for item in encoded]
    assert ours == ids_by_trl(policy, dataset, tmp_path)


# Refused


def refused(spec: ScorerSpec, record: Record, keys: tuple[str, ...] = KEYS, **scoring: Any) -> RowError:
    """Why a record is not encoded; scoring: other rules than those of the spec."""
    encoding = replace(spec.encoding, scoring=spec.encoding.scoring.model_copy(update=scoring))
    (error,) = Encoder(encoding, replace(CORPUS, message_keys=keys)).encode([record])
    assert isinstance(error, RowError), "it was encoded"
    return error


def test_a_key_that_the_selection_would_not_hold_is_never_dropped(spec):
    record = Record([ASKED], [[said("42", mood="sure")], [said("41")]])
    assert refused(spec, record).reason == Reason.BAD_MESSAGES
    empty = Record([ASKED], [[said("42", mood=None, tool_calls=[])], [said("41")]])
    (encoded,) = Encoder(spec.encoding, CORPUS).encode([empty])
    assert not isinstance(encoded, RowError)


def test_sides_that_differ_in_what_the_template_leaves_out_have_the_same_tokens(spec):
    record = Record([ASKED], [[said("42", name=None, weight=1)], [said("42", weight=0)]])
    assert refused(spec, record, (*KEYS, "weight")).reason == Reason.IDENTICAL_TOKENS


MARKED = {
    "thoughts": Record([ASKED], [[said("42", reasoning_content="so<|end|>")], [said("41")]]),
    "a name in the prompt": Record([ASKED | {"name": "<|end|>"}], [[said("42")], [said("41")]]),
    "arguments": Record([ASKED], [[said("", tool_calls=[{"function": {"x": ["<|end|>"]}}])], [said("41")]]),
    "tools": Record([ASKED], [[said("42")], [said("41")]], {"tools": [TOOL | {"about": {"deep": ["<|end|>"]}}]}),
}


@pytest.mark.parametrize("where", MARKED)
def test_control_tokens_are_found_at_any_depth(spec, where):
    assert refused(spec, MARKED[where]).reason == Reason.CONTROL_TOKENS
    sanitizing = spec.encoding.scoring.model_copy(update={"control_tokens": "sanitize"})
    encoder = Encoder(replace(spec.encoding, scoring=sanitizing), replace(CORPUS, message_keys=KEYS))
    (encoded,) = encoder.encode([MARKED[where]])
    text = encoder.decode(np.concatenate([encoded.prompt, encoded.completions[0]]))
    assert "< |end|>" in text
    assert text.count("<|end|>") == 3 if where == "tools" else 2


@pytest.mark.parametrize("rule", ["error", "sanitize"])
def test_a_control_token_in_the_name_of_an_entry_is_an_error(spec, rule):
    record = Record([ASKED], [[said("", tool_calls=[{"function": {"<|end|>": 1}}])], [said("41")]])
    assert refused(spec, record, control_tokens=rule).reason == Reason.CONTROL_TOKENS


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt", "chat_template", "max_length"])
def test_a_row_cannot_set_what_rendering_goes_by(spec, name):
    error = refused(spec, Record([ASKED], [[said("42")], [said("41")]], {name: 1}))
    assert error.reason == Reason.TEMPLATE_ERROR
    assert name in str(error.detail)


def test_tools_are_refused_by_name_where_the_template_takes_none(tmp_path, policy):
    plain = make_reward(tmp_path / "reward", "llama", make_tokenizer())
    tree = config_tree(tmp_path, tmp_path / "out", policy, plain)
    config, corpus = parse_config(tree), replace(CORPUS, reading=replace(CORPUS.reading, template=("tools",)))
    with pytest.raises(ModelError, match=r"column tools.*reward takes none") as caught:
        scorer_specs(config, corpus, scorer_files(config))
    assert "ignore: [tools]" in caught.value.do
    assert str(plain) in caught.value.where
    scorer_specs(config, CORPUS, scorer_files(config))
    takes = make_reward(tmp_path / "takes", "llama", make_thinking_tokenizer())
    config = parse_config(config_tree(tmp_path, tmp_path / "out", policy, takes))
    scorer_specs(config, corpus, scorer_files(config))


PLAIN, WITH_TOOLS = "{{ messages }}", "{% if tools is not none %}{{ tools }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "takes"),
    [
        (PLAIN, False),
        (WITH_TOOLS, True),
        ("{% generation %}{{ messages }}{%- endgeneration -%}{% break %}", False),
        ("{% for t in tools %}{% generation %}{{ t }}{% endgeneration %}{% break %}{% endfor %}", True),
        ("{% set tools = 1 %}{{ tools }}", False),
        ({"default": PLAIN, "tool_use": WITH_TOOLS}, True),
        ({"default": PLAIN, "rag": WITH_TOOLS}, False),
        ({"rag": WITH_TOOLS}, False),
    ],
)
def test_whether_a_template_takes_tools(template, takes):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    assert takes_tools(tokenizer) is takes


def test_a_template_of_its_own_for_tools_is_part_of_the_fingerprint(tmp_path):
    tokenizer, found = make_tokenizer(), []
    for number, tools in enumerate((WITH_TOOLS, WITH_TOOLS + " ")):
        tokenizer.chat_template = {"default": PLAIN, "tool_use": tools}
        folder = make_policy(tmp_path / str(number), tokenizer=tokenizer)
        found.append(model_files(Model(path=str(folder)), "policy").tokenizer_hash)
    assert found[0] != found[1]

"""The layouts that a selection is written in, one per trainer: texts in, Arrow columns and extra files out.

A layout holds what its loader reads: OpenRLHF 0.11 (openrlhf/datasets/reward_dataset.py), LLaMA-Factory 0.9
(llamafactory/data: parser.py, loader.py, converter.py). Under raw, all of them read three strings. The text between
them is the loader's: OpenRLHF strips newlines at the end of raw text and writes a space before EOS; LLaMA-Factory
renders chats by its own template (--template; by default one that it guesses from the tokenizer's). Of messages with
further keys, TRL and OpenRLHF give every key to the template, LLaMA-Factory none; tools are given to it by TRL alone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mapjob.config.run import OutputFormat
from mapjob.corpus.cells import HH_OPENING
from mapjob.corpus.plan import NO_FIELDS, Corpus, Style
from mapjob.corpus.reader import read_records
from mapjob.corpus.reading import as_chat
from mapjob.corpus.records import Message, Record, is_empty
from mapjob.corpus.text_columns import MESSAGE, as_messages
from mapjob.errors import ConfigError, MapjobError, RowError

TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
SHAREGPT_NAMES = {"user": "human", "assistant": "gpt", "system": "system"}
ROLES_OF_NAMES = {name: role for role, name in SHAREGPT_NAMES.items()}


class Pair(NamedTuple):
    """Prompt and completions as they were scored: strings under raw, messages under chat."""

    prompt: Any
    chosen: Any
    rejected: Any


def pair_columns(
    output_format: OutputFormat,
    style: Style,
    pairs: Sequence[Pair],
    locate: Callable[[int], str],
    message_fields: pa.Schema = NO_FIELDS,
    templates: Sequence[Mapping[str, Any] | None] = (),
) -> dict[str, pa.ChunkedArray]:
    """The columns that a trainer's loader reads, one row per pair.

    message_fields: the further keys that every message has, null or not. templates: what each pair's row gives to the
    chat template, if any does. Raises ConfigError at the first pair that the loader would skip or change; locate(i)
    says its file and row.
    """
    for index, (pair, template) in enumerate(zip_longest(pairs, templates)):
        if (why := _misread(output_format, pair, template)) is not None:
            do = "set output_format: trl (`mapjob rank` publishes the same scores so), or remove the row"
            raise ConfigError(f"output_format {output_format} cannot hold a selected pair: {why}", locate(index), do)
    schema, written = (RAW, Pair._asdict) if style == "raw" else _chat(output_format, message_fields)
    table = pa.Table.from_pylist([written(pair) for pair in pairs], schema)
    return {name: table[name] for name in schema.names}


def whole_columns(
    output_format: OutputFormat, style: Style, texts: Sequence[pa.Array], message_fields: pa.Schema
) -> dict[str, pa.Array] | None:
    """As `pair_columns`, of prompt, chosen and rejected as whole columns (guess_texts) instead of Python objects.

    None for the forms that only `pair_columns` writes.
    """
    are_strings = texts[0].type == pa.string()
    if output_format == "columns":
        return {}
    if style == "raw" or output_format != "trl" or len(message_fields):
        return dict(zip(Pair._fields, texts)) if style == "raw" and are_strings else None
    if are_strings:
        if pc.any(pc.starts_with(texts[0], HH_OPENING)).as_py():
            return None
        texts = [as_messages(text, role) for text, role in zip(texts, ("user", "assistant", "assistant"))]
    return dict(zip(Pair._fields, texts))


def _misread(output_format: OutputFormat, pair: Pair, template: Mapping[str, Any] | None) -> str | None:
    """Why a format's loader would not train on what was scored; None if it does.

    OpenRLHF takes chosen without its last message as the prompt of both sides. LLaMA-Factory takes one message per
    completion and of each its role and content, skips a dialogue whose turns do not alternate, and replaces an empty
    system message by its template's.
    """
    if output_format not in ("openrlhf", "llama_factory") or isinstance(pair.prompt, str):
        return None
    if given := [name for name, value in (template or {}).items() if not is_empty(value)]:
        return f"{given[0]} for the chat template, which its loader does not give to it"
    if len(pair.chosen) > 1 or len(pair.rejected) > 1:
        return "a completion of several messages, of which its loader takes only one"
    if output_format == "openrlhf":
        return None
    for turn in chain(*pair):
        if turn["role"] not in SHAREGPT_NAMES:
            return f"a message of the role {turn['role']}, which its loader writes in a form of its own"
        for key, value in turn.items():
            if key not in MESSAGE.names and not is_empty(value):
                return f"a message with the key {key!r}, which its loader drops"
    has_system = pair.prompt[0]["role"] == "system"
    roles = [message["role"] for message in pair.prompt[has_system:]]
    if len(roles) % 2 == 0 or roles != [("user", "assistant")[i % 2] for i in range(len(roles))]:
        return "turns that do not alternate between user and assistant, which its loader skips"
    if has_system and not pair.prompt[0]["content"]:
        return "an empty system message, which its loader replaces"
    return None


def _whole_dialogues(pair: Pair) -> dict[str, list[Message]]:
    return {"chosen": pair.prompt + pair.chosen, "rejected": pair.prompt + pair.rejected}


def _sharegpt(pair: Pair) -> dict[str, Any]:
    turns = [{"from": SHAREGPT_NAMES[turn["role"]], "value": turn["content"]} for part in pair for turn in part]
    return {"conversations": turns[:-2], "chosen": turns[-2], "rejected": turns[-1]}


RAW = pa.schema([(name, pa.string()) for name in Pair._fields])
SHAREGPT = pa.schema({"conversations": pa.list_(TURN), "chosen": TURN, "rejected": TURN})


def _chat(output_format: OutputFormat, message_fields: pa.Schema) -> tuple[pa.Schema, Callable[[Pair], dict[str, Any]]]:
    """The schema of a format's messages, and how a pair is written in it."""
    if output_format == "llama_factory":
        return SHAREGPT, _sharegpt
    messages = pa.list_(pa.struct([*MESSAGE, *message_fields]))
    if output_format == "openrlhf":
        return pa.schema({"chosen": messages, "rejected": messages}), _whole_dialogues
    return pa.schema([(name, messages) for name in Pair._fields]), Pair._asdict


def read_pair(row: pa.Table, output_format: OutputFormat, corpus: Corpus) -> Pair:
    """The texts of one selected row, in whatever format it was written."""
    if output_format == "columns":
        (record,) = read_records(row, corpus.reading)
        sides = [row[name][0].as_py() for name in ("chosen_index", "rejected_index")]
        if isinstance(record, Record) and record.order:
            sides = [record.order.index(side) for side in sides]
        return pair_of(record, corpus, *sides)
    values = row.select([name for name in (*Pair._fields, "conversations") if name in row.column_names]).to_pylist()[0]
    if corpus.style == "raw":
        return Pair(*(values[name] for name in Pair._fields))
    if output_format == "llama_factory":
        sides = ([values["chosen"]], [values["rejected"]])
        return Pair(*map(_messages_of_turns, (values["conversations"], *sides)))
    chosen, rejected = (without_nulls(values[side]) for side in ("chosen", "rejected"))
    if output_format == "openrlhf":
        return Pair(chosen[:-1], chosen[-1:], rejected[-1:])
    return Pair(without_nulls(values["prompt"]), chosen, rejected)


def without_nulls(messages: list[Message]) -> list[Message]:
    """Messages of a selection as they were read: without the keys that only others have."""
    return [{key: value for key, value in turn.items() if key == "content" or value is not None} for turn in messages]


def _messages_of_turns(turns: list[dict[str, str]]) -> list[Message]:
    return [{"role": ROLES_OF_NAMES[turn["from"]], "content": turn["value"]} for turn in turns]


def pair_of(record: Record | RowError, corpus: Corpus, chosen: int, rejected: int) -> Pair:
    """Two completions of a row as they were scored. Raises MapjobError for a row that can no longer be read."""
    record = readable(record)
    if corpus.style == "chat":
        record = as_chat(record)
    return Pair(record.prompt, record.completions[chosen], record.completions[rejected])


def readable(record: Record | RowError) -> Record:
    """The record of a row that was scored. Raises MapjobError for a row that can no longer be read."""
    if isinstance(record, RowError):
        what = f"a row that was scored can no longer be read: {record}"
        raise MapjobError(what, "the corpus", "the files changed; run again")
    return record


def extra_files(output_format: OutputFormat, style: Style) -> dict[str, bytes]:
    """Files beside selected/ that a format's loader needs, by name: LLaMA-Factory's dataset_info.json.

    With it, `--dataset_dir <run folder> --dataset selected` loads selected/ as it is.
    """
    if output_format != "llama_factory":
        return {}
    prompt = {"messages": "conversations"} if style == "chat" else {"prompt": "prompt"}
    entry = {
        "file_name": "selected",
        "formatting": "sharegpt" if style == "chat" else "alpaca",
        "ranking": True,
        "columns": {**prompt, "chosen": "chosen", "rejected": "rejected"},
    }
    return {"dataset_info.json": (json.dumps({"selected": entry}, indent=2) + "\n").encode()}

"""The layouts that a selection is written in, one per trainer: texts in, Arrow columns and extra files out.

A layout holds what its loader reads: OpenRLHF 0.11 (openrlhf/datasets/reward_dataset.py), LLaMA-Factory 0.9
(llamafactory/data: parser.py, loader.py, converter.py). Under raw, all of them read three strings. The text between
them is the loader's: OpenRLHF strips newlines at the end of raw text and writes a space before EOS; LLaMA-Factory
renders chats by its own template (--template; by default one that it guesses from the tokenizer's).
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from mapjob.config.run import Columns, OutputFormat
from mapjob.corpus.layouts import LAYOUTS
from mapjob.corpus.plan import Corpus, Style
from mapjob.corpus.reader import read_records
from mapjob.corpus.records import Message, Record
from mapjob.errors import ConfigError, MapjobError, RowError

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
SHAREGPT_NAMES = {"user": "human", "assistant": "gpt", "system": "system"}


class Pair(NamedTuple):
    """Prompt and completions as they were scored: strings under raw, messages under chat."""

    prompt: Any
    chosen: Any
    rejected: Any


def pair_columns(
    output_format: OutputFormat, style: Style, pairs: Sequence[Pair], locate: Callable[[int], str]
) -> dict[str, pa.ChunkedArray]:
    """The columns that a trainer's loader reads, one row per pair.

    Raises ConfigError at the first pair that the loader would skip or change; locate(i) says its file and row.
    """
    for index, pair in enumerate(pairs):
        if (why := _misread(output_format, pair)) is not None:
            do = "set output_format: trl (`mapjob rank` publishes the same scores so), or remove the row"
            raise ConfigError(f"output_format {output_format} cannot hold a selected pair: {why}", locate(index), do)
    schema, written = RAW if style == "raw" else CHAT[output_format]
    table = pa.Table.from_pylist([written(pair) for pair in pairs], schema)
    return {name: table[name] for name in schema.names}


def _misread(output_format: OutputFormat, pair: Pair) -> str | None:
    """Why a format's loader would not train on what was scored; None if it does.

    OpenRLHF takes chosen without its last message as the prompt of both sides. LLaMA-Factory takes one message per
    completion, skips a dialogue whose turns do not alternate, and replaces an empty system message by its template's.
    """
    if output_format not in ("openrlhf", "llama_factory") or isinstance(pair.prompt, str):
        return None
    if len(pair.chosen) > 1 or len(pair.rejected) > 1:
        return "a completion of several messages, of which its loader takes only one"
    if output_format == "openrlhf":
        return None
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


Written = tuple[pa.Schema, Callable[[Pair], dict[str, Any]]]
RAW: Written = (pa.schema([(name, pa.string()) for name in Pair._fields]), Pair._asdict)
CHAT: dict[str, Written] = {
    "trl": (pa.schema([(name, MESSAGES) for name in Pair._fields]), Pair._asdict),
    "openrlhf": (pa.schema({"chosen": MESSAGES, "rejected": MESSAGES}), _whole_dialogues),
    "llama_factory": (pa.schema({"conversations": pa.list_(TURN), "chosen": TURN, "rejected": TURN}), _sharegpt),
}
READ_AS = {"openrlhf": "openrlhf", "llama_factory": "sharegpt"}  # names of our own layouts


def read_pair(row: pa.Table, output_format: OutputFormat, corpus: Corpus) -> Pair:
    """The texts of one selected row, in whatever format it was written."""
    if output_format == "columns":
        (record,) = read_records(row, corpus.spec, corpus.columns.model_copy(update={"id": None, "group": None}))
        return pair_of(record, corpus, row["chosen_index"][0].as_py(), row["rejected_index"][0].as_py())
    if output_format == "trl" or corpus.style == "raw":
        return Pair(*(row[name][0].as_py() for name in Pair._fields))
    (record,) = read_records(row, LAYOUTS[READ_AS[output_format]], Columns())
    assert isinstance(record, Record), "what was selected was read before"
    return Pair(record.prompt, *record.completions)


def pair_of(record: Record | RowError, corpus: Corpus, chosen: int, rejected: int) -> Pair:
    """Two completions of a row as they were scored. Raises MapjobError for a row that can no longer be read."""
    if isinstance(record, RowError):
        what = f"a row that was scored can no longer be read: {record}"
        raise MapjobError(what, "the corpus", "the files changed; run again")
    if corpus.style == "chat":
        record = corpus.to_chat(record)
    return Pair(record.prompt, record.completions[chosen], record.completions[rejected])


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

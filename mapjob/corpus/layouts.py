"""The layouts of preference data in the field: a function from a row to a Record and a line in LAYOUTS per layout."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mapjob.config.run import Columns
from mapjob.corpus.records import Message, Record, Text, as_chat, messages
from mapjob.errors import ConfigError, InputError, Reason, RowError

Row = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """How a row becomes a Record. `columns` are read; all of them are replaced by prompt/chosen/rejected on export."""

    columns: tuple[str, ...]
    read: Callable[[Row], Record]
    to_chat: Callable[[Record], Record] = as_chat


def _field(row: Row, name: str) -> Any:
    if row.get(name) is None:
        raise RowError(Reason.NULL_FIELD, f"{name} is null")
    return row[name]


def _list(row: Row, name: str) -> list[Any]:
    value = _field(row, name)
    if not isinstance(value, list):
        raise RowError(Reason.BAD_MESSAGES, f"{name} is not a list")
    return value


def _explicit_prompt(row: Row) -> Record:
    """TRL: prompt, chosen and rejected hold strings, or messages with chosen/rejected as the completion alone."""
    prompt, completions = _field(row, "prompt"), [_field(row, "chosen"), _field(row, "rejected")]
    if isinstance(prompt, str) and all(isinstance(c, str) for c in completions):
        return Record(prompt, completions)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return Record(_prompt(prompt), [_completion(c, name) for c, name in zip(completions, ("chosen", "rejected"))])


def _prompt(value: Any) -> list[Message]:
    turns = messages(value, "prompt")
    if turns[-1]["role"] == "assistant":
        raise RowError(Reason.BAD_MESSAGES, "the prompt ends in an assistant turn")
    return turns


def _completion(value: Any, what: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    turns = messages([value] if isinstance(value, dict) else value, what)
    if turns[0]["role"] != "assistant" or turns[-1]["role"] != "assistant":
        raise RowError(Reason.BAD_MESSAGES, f"{what}: a completion starts and ends with an assistant turn")
    return turns


def _whole_dialogues(row: Row) -> Record:
    """OpenRLHF, UltraFeedback-binarized: chosen and rejected are whole dialogues; their common start is the prompt."""
    return _split([messages(_field(row, name), name) for name in ("chosen", "rejected")])


def _split(dialogues: list[list[Message]]) -> Record:
    """Split dialogues after their longest common start behind which the assistant opens every completion."""
    for turns in dialogues:
        if turns[-1]["role"] != "assistant":
            raise RowError(Reason.BAD_MESSAGES, "the dialogue does not end in an assistant turn")
    end = min(map(len, dialogues)) - 1
    common = next((i for i in range(end) if any(d[i] != dialogues[0][i] for d in dialogues)), end)
    while common and any(d[common]["role"] != "assistant" for d in dialogues):
        common -= 1
    if common == 0:
        raise RowError(Reason.BAD_MESSAGES, "chosen and rejected share no prompt")
    return Record(dialogues[0][:common], [d[common:] for d in dialogues])


_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def _hh(row: Row) -> Record:
    """Anthropic HH: chosen and rejected are whole dialogues as one string; the prompt ends with their last common
    "\\n\\nAssistant:"."""
    texts = [_field(row, name) for name in ("chosen", "rejected")]
    record = _split([_hh_turns(text) for text in texts])
    if record.completions[0] == record.completions[1]:
        raise RowError(Reason.IDENTICAL_COMPLETIONS, "but for white space")
    # The same cut in the text itself: behind the marker that opens the completion's first turn.
    marks = [list(_HH_TURN.finditer(text)) for text in texts]
    cuts = [turn_marks[len(record.prompt)].end() for turn_marks in marks]
    if texts[0][: cuts[0]] != texts[1][: cuts[1]]:
        raise RowError(Reason.BAD_MESSAGES, "chosen and rejected differ in white space inside the prompt")
    return Record(texts[0][: cuts[0]], [text[cut:] for text, cut in zip(texts, cuts)])


def _hh_turns(text: str) -> list[Message]:
    if not isinstance(text, str):
        raise RowError(Reason.BAD_MESSAGES, "not a dialogue as one string")
    opening, *parts = _HH_TURN.split(text)
    if opening.strip() or not parts:
        raise RowError(Reason.BAD_MESSAGES, "the dialogue does not start with a Human or Assistant turn")
    return [{"role": _HH_ROLES[who], "content": content.strip()} for who, content in zip(parts[::2], parts[1::2])]


def _hh_to_chat(record: Record) -> Record:
    assert isinstance(record.prompt, str)
    prompt = _hh_turns(record.prompt)[:-1]
    completions: list[Text] = [_hh_turns("\n\nAssistant:" + completion) for completion in record.completions]
    return replace(record, prompt=prompt, completions=completions)


_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def _sharegpt(row: Row) -> Record:
    """LLaMA-Factory: conversations of {from, value} that end on a human turn; chosen and rejected one turn each."""
    prompt = _prompt([_sharegpt_turn(turn) for turn in _list(row, "conversations")])
    return Record(prompt, [_completion(_sharegpt_turn(_field(row, name)), name) for name in ("chosen", "rejected")])


def _sharegpt_turn(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise RowError(Reason.BAD_MESSAGES, "a turn without from and value")
    return {"role": _SHAREGPT_ROLES.get(str(turn.get("from")), str(turn.get("from"))), "content": turn.get("value")}


_RESPONSE_TEXTS = ("text", "content", "response", "completion")


def _candidates(row: Row) -> Record:
    """N responses per prompt: strings, or structs with one text field."""
    prompt, responses = _field(row, "prompt"), _list(row, "responses")
    texts: list[Text] = [_response(response, index) for index, response in enumerate(responses)]
    if isinstance(prompt, str):
        return Record(prompt, texts)
    return Record(_prompt(prompt), [_completion(text, "response") for text in texts])


def _response(response: Any, index: int) -> str:
    if isinstance(response, dict):
        response = next((response[key] for key in _RESPONSE_TEXTS if key in response), None)
    if not isinstance(response, str):
        raise RowError(Reason.NULL_FIELD, f"response {index} has no text")
    return response


LAYOUTS: dict[str, Layout] = {
    "trl": Layout(("prompt", "chosen", "rejected"), _explicit_prompt),
    "hh": Layout(("chosen", "rejected"), _hh, _hh_to_chat),
    "sharegpt": Layout(("conversations", "chosen", "rejected"), _sharegpt),
    "openrlhf": Layout(("chosen", "rejected"), _whole_dialogues),
    "ultrafeedback": Layout(("chosen", "rejected"), _whole_dialogues),
    "candidates": Layout(("prompt", "responses"), _candidates),
}


# Which layout a corpus has, from its Arrow schema and its first rows.

HH_OPENING = "\n\nHuman:"


def renames(columns: Columns) -> dict[str, str]:
    """Layout's column name -> the corpus's, for every column that the run file renames."""
    names = ("prompt", "chosen", "rejected", "responses")
    return {name: getattr(columns, name) for name in names if getattr(columns, name) is not None}


def recognise(schema: pa.Schema, head: list[Row], columns: Columns, where: str) -> tuple[str, str]:
    """(layout, why) for rows that are already renamed. Raises InputError if nothing fits."""
    has = set(schema.names) | set(renames(columns))
    first = next((row for row in head if row.get("chosen") is not None), {})
    whole = _is_whole_dialogue(first.get("chosen"))
    if {"prompt", "responses"} <= has and "chosen" not in has:
        return "candidates", "a prompt and a list of responses"
    if {"conversations", "chosen", "rejected"} <= has:
        return "sharegpt", "conversations of {from, value}, one chosen and one rejected turn"
    if {"prompt", "chosen", "rejected"} <= has:
        if whole:
            return "ultrafeedback", "a prompt beside chosen and rejected that are whole dialogues"
        kind = "strings" if isinstance(first.get("chosen"), str) else "messages"
        return "trl", f"prompt, chosen and rejected ({kind})"
    if {"chosen", "rejected"} <= has and whole:
        return "openrlhf", "chosen and rejected are whole dialogues"
    if {"chosen", "rejected"} <= has and str(first.get("chosen", "")).startswith(HH_OPENING):
        return "hh", 'chosen and rejected are dialogues of "Human:" and "Assistant:"; the prompt is their common start'
    do = "name the columns in input.columns (prompt: ..., chosen: ..., rejected: ...), or set input.layout"
    raise InputError(f"no known layout has these columns: {', '.join(schema.names)}", where, do)


def check_columns(layout: str, schema: pa.Schema, columns: Columns, where: str) -> None:
    """Raises ConfigError if the layout or the run file names a column that the corpus lacks, and InputError if one of
    the layout's columns is of a type that holds no text in any row."""
    renamed = renames(columns)
    needed = [renamed.get(name, name) for name in LAYOUTS[layout].columns]
    needed += [name for name in (columns.id, columns.group, *renamed.values()) if name]
    for name in dict.fromkeys(needed):
        if name not in schema.names:
            raise ConfigError(
                f"the corpus has no column {name!r}, which layout {layout} or input.columns asks for",
                where,
                f"its columns are: {', '.join(schema.names)}",
            )
    for name in LAYOUTS[layout].columns:
        field = schema.field(renamed.get(name, name))
        if not _may_hold_text(field.type):
            raise InputError(
                f"the column {field.name!r}, read as {name}, is of the type {field.type}, which is neither text nor "
                "a list of messages",
                where,
                "write it as a string column, or name another one in input.columns",
            )


def _may_hold_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    kinds = pa.types.is_string, pa.types.is_large_string, pa.types.is_nested, pa.types.is_null
    return any(is_kind(kind) for is_kind in kinds)


def _is_whole_dialogue(chosen: object) -> bool:
    """Messages that start with the user's or the system's turn, so that the prompt is inside them."""
    first = chosen[0] if isinstance(chosen, list) and len(chosen) > 1 else None
    return isinstance(first, dict) and first.get("role") in ("user", "system")

"""The cell reader: the only code that knows the shapes in which a column holds text.

A cell is a plain string, a dialogue as one string (Anthropic HH), JSON of anything below in a string, a list of
messages (`role`, `content` or `from`, `value`), one message, a struct of lists (what `datasets` makes of a sequence of
dicts), content parts, a struct around one text, a list of texts, or a list of [question, answer]. All become messages.
"""

import json
import re
from typing import Any, Literal

from mapjob.corpus.records import SAYING, Message
from mapjob.errors import Reason, RowError

Speaker = Literal["system", "user", "assistant"]
Shape = Literal["nothing", "text", "dialogue", "message", "texts", "exchanges", "struct", "other"]

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation"), "tool"),
}
CALLS = ("function_call", "tool_call", "function_response", "tool_response")  # of LLaMA-Factory, ms-swift: not read
WHO, WORDS = ("role", "from", "speaker", "sender", "author"), ("content", "value", "text")  # the keys of a message
ONE_TEXT = ("text", "content", "response", "completion", "answer", "output", "generated_text", "full_text", "post")
ONE_TEXT += ("value",)

# What a struct around a text may hold beside it that a model would have to be told.
BESIDE = ("system", "system_prompt", "context", "history", "tools", "image", "images")
TEXT_PARTS = ("text", "input_text", "output_text")

HH_OPENING, HH_ANSWER = "\n\nHuman:", "\n\nAssistant:"
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")


def shape_of(value: Any) -> Shape:
    """What a cell looks like: a dialogue has turns with roles of their own, texts and structs have none."""
    if value is None or value == "" or value == []:
        return "nothing"
    if isinstance(value, str):
        return "dialogue" if value.startswith(HH_OPENING) else "text"
    if isinstance(value, list):
        if all(item is None or isinstance(item, str) for item in value):
            return "texts" if any(value) else "nothing"
        if all(isinstance(item, list) and [type(text) for text in item] == [str, str] for item in value):
            return "dialogue" if all(item[0].lower() in ROLES for item in value) else "exchanges"
        if all(shape_of(item) == "message" for item in value):
            return "dialogue"
        return "text" if all(_is_part(item) for item in value) else "other"
    if isinstance(value, dict):
        if (who := _key(value, WHO)) is not None:
            return "dialogue" if isinstance(value[who], list) else "message"
        return "struct" if len(_texts_in(value)) == 1 else "other"
    return "other"


def decode_json(value: Any) -> Any:
    """What a string holds as JSON, if that is something that `read_turns` reads but a plain string; else None."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            decoded = json.loads(value)
        except (ValueError, RecursionError):
            return None
        if shape_of(decoded) in ("dialogue", "message", "texts", "exchanges") or decoded == []:
            return decoded
    return None


def read_turns(value: Any, speaker: Speaker, what: str) -> list[Message]:
    """The messages of a cell; a text without a role is the speaker's. what: the column, for errors.

    Raises RowError for what holds no text dialogue.
    """
    if value is None or value == []:
        return []
    if isinstance(value, str):
        if not value.startswith(HH_OPENING):
            return [_turn(speaker, value)]
        turns = read_hh(value, what)
        return turns[:-1] if speaker == "user" and turns[-1] == _turn("assistant", "") else turns
    if isinstance(value, list):
        match shape_of(value):
            case "exchanges":
                return [_turn(who, text) for pair in value for who, text in zip(("user", "assistant"), pair)]
            case "dialogue" if isinstance(value[0], list):
                return [_turn(ROLES[who.lower()], text) for who, text in value]
            case "other" if len(value) > 1 and all(isinstance(item, dict) for item in value):
                raise RowError(Reason.BAD_MESSAGES, f"{what}: messages without a role among {_names(value[0])}")
            case "text":
                return [_turn(speaker, _join_parts(value, what))]
            case "texts" if len(value) > 1:
                raise RowError(Reason.BAD_MESSAGES, f"{what}: {len(value)} texts without roles")
        return [_message(item, speaker, f"{what}, message {index}") for index, item in enumerate(value)]
    if isinstance(value, dict):
        who = _key(value, WHO)
        if who is not None and isinstance(value[who], list):
            return read_turns(rows_of(value, what), speaker, what)
        return [_message(value, speaker, what)]
    raise RowError(Reason.BAD_MESSAGES, f"{what}: {type(value).__name__} instead of text or messages")


def rows_of(value: dict[str, Any], what: str) -> list[dict[str, Any]]:
    """A struct of lists as a list of structs; keys without a list are left out. Raises RowError for unequal lengths."""
    lists = {key: values for key, values in value.items() if isinstance(values, list)}
    lengths = {len(values) for values in lists.values()}
    if len(lengths) != 1:
        raise RowError(Reason.BAD_MESSAGES, f"{what}: lists of different lengths")
    return [dict(zip(lists, row)) for row in zip(*lists.values())]


def _message(value: Any, speaker: Speaker, what: str) -> Message:
    if isinstance(value, str):
        return _turn(speaker, value)
    if not isinstance(value, dict):
        raise RowError(Reason.BAD_MESSAGES, f"{what}: no text content")
    who = _key(value, WHO)
    if who is None:
        names = _texts_in(value)
        if not names:
            raise RowError(Reason.NULL_FIELD, f"{what}: no text in any of {_names(value)}")
        if len(names) > 1:
            raise RowError(Reason.BAD_MESSAGES, f"{what}: several texts, {' and '.join(names)}: name one by a path")
        if beside := [key for key in BESIDE if value.get(key)]:
            raise RowError(Reason.BAD_MESSAGES, f"{what}: {beside[0]} beside {names[0]}, which no reading uses")
        said = {key: value[key] for key in SAYING if key != "content" and key not in names and value.get(key)}
        return {**_turn(speaker, value[names[0]]), **said}
    role = value[who]
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise RowError(Reason.BAD_MESSAGES, f"{what}: role {_name_role(role)}")
    words = _key(value, WORDS)
    content = None if words is None else value[words]
    if isinstance(content, list):
        content = _join_parts(content, what)
    more = {key: item for key, item in value.items() if key not in (who, words) and item is not None}
    if content is None and more.get("tool_calls"):
        return {"role": ROLES[role.lower()], "content": None, **more}
    if not isinstance(content, str):
        raise RowError(Reason.BAD_MESSAGES, f"{what}: no text content")
    return {"role": ROLES[role.lower()], "content": content, **more}


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _key(value: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of the names that the struct has, those with a value first."""
    here = [name for name in names if name in value]
    return next((name for name in here if value[name] is not None), here[0] if here else None)


def _texts_in(value: dict[str, Any]) -> list[str]:
    """The keys of a struct without a role that hold a text which may be the one that is meant."""
    return [name for name in ONE_TEXT if isinstance(value.get(name), str)]


def _names(value: dict[str, Any]) -> str:
    return ", ".join(map(str, value))[:200]


def _is_part(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("type"), str) and _key(item, WHO) is None


def _join_parts(parts: list[Any], what: str) -> str:
    for part in parts:
        if not _is_part(part) or part["type"] not in TEXT_PARTS or not isinstance(part.get("text"), str):
            raise RowError(Reason.BAD_MESSAGES, f"{what}: a content part that is no text")
    return "".join(part["text"] for part in parts)


def _name_role(role: Any) -> str:
    """A role for an error: quoted if it is known in the field; anything else could be a text of the corpus."""
    known = role is None or (isinstance(role, str) and role.lower() in CALLS)
    return f"{role!r}" if known else "that is none of " + ", ".join(sorted(ROLES))


# Anthropic HH: a whole dialogue as one string.


def read_hh(text: str, what: str) -> list[Message]:
    """The turns of "\\n\\nHuman: …\\n\\nAssistant: …", white space around each stripped.

    Raises RowError if the text does not begin with a turn.
    """
    opening, *parts = _HH_TURN.split(text)
    if opening.strip() or not parts:
        raise RowError(Reason.BAD_MESSAGES, f"{what}: the dialogue does not start with a Human or Assistant turn")
    return [_turn(ROLES[who.lower()], said.strip()) for who, said in zip(parts[::2], parts[1::2])]


def cut_hh(text: str, num_turns: int) -> tuple[str, str]:
    """The same cut in the text itself: (up to the marker that opens turn `num_turns`, what is behind it)."""
    end = [mark.end() for mark in _HH_TURN.finditer(text)][num_turns]
    return text[:end], text[end:]

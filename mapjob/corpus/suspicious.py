"""Strings that look as if they held more than a text: turns with their markers, data, or the prompt again."""

import ast
import json
import re

from mapjob.corpus.records import Record

# Tokens of chat templates, of which one is enough.
_TOKEN = re.compile(
    r"<\|[A-Za-z_]+\|>|<｜[^｜<>]+｜>|\[/?INST\]|<(start|end)_of_turn>|<extra_id_\d>|\[\|\w+\|\]"
    r"|<(human|bot|user|assistant)>|</?s>|(^|\n)### ?(Human|Assistant|Instruction|Response|User|Input) ?:"
)
# Who speaks, at the start of a line or (in capitals) inside one: a text with both speakers, or that opens so.
_USER = r"(human|user|prompter|customer|question|speaker a|问)"
_ASSISTANT = r"(assistant|ai|bot|gpt|agent|answer|speaker b|答)"
_LINE = r"(^|\n)\s*(\*\*)?{}(\*\*)?\s*([:：]|\n)"
_ASKS, _ANSWERS = (re.compile(_LINE.format(words), re.IGNORECASE) for words in (_USER, _ASSISTANT))
_INLINE = re.compile(r"\b(USER|HUMAN|Human): .*\b(ASSISTANT|AI|Assistant):", re.DOTALL)
_OPENS = re.compile(r"\s*(human|assistant|user|prompter|AI|bot)\s?: ", re.IGNORECASE)
_REPR = re.compile(r"\s*(\[\s*\{|\{\s*'|\[\s*'|b['\"]|array\()")


def find_marker(text: str) -> str | None:
    """A marker of turns in a text that does not look like one text; None if there is none."""
    if found := _TOKEN.search(text) or _INLINE.search(text):
        return found.group().strip()[:40]
    asks, answers = _ASKS.search(text), _ANSWERS.search(text)
    if asks and answers:
        return f"{asks.group().strip()} {answers.group().strip()}"
    opens = _OPENS.match(text)
    return opens.group().strip() if opens else None


def find_data(text: str) -> str | None:
    """What a text is that a program can read as data: JSON, or what Python prints of a list, a dict or bytes."""
    if text.lstrip()[:1] in ("{", "[", '"'):
        try:
            decoded = json.loads(text)
            if isinstance(decoded, dict | list) or (isinstance(decoded, str) and "\\" in text):
                return "JSON"
        except (ValueError, RecursionError):
            pass
    if _REPR.match(text):
        if re.match(r"\s*(array\(|\[\s*\{\s*'(role|from|content|value)')", text):
            return "what Python prints of an array or of messages"
        try:
            if isinstance(ast.literal_eval(text.strip()), dict | list | bytes):
                return "what Python prints of a list, a dict or bytes"
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass
    return None


def begins_with_prompt(record: Record) -> bool:
    """Whether all answers of a chat begin with the last turn before them."""
    asked = str(record.prompt[-1]["content"] or "").strip()
    return bool(asked) and all(str(side[0]["content"] or "").strip().startswith(asked) for side in record.completions)

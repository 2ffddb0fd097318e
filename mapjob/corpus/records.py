"""A record: one prompt and N >= 2 completions, the only shape that scoring knows."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mapjob.errors import Reason, RowError

Message = dict[str, Any]  # role, content (None only beside tool calls), and further keys that are not null
Text = str | list[Message]

ROLES = {"system", "user", "assistant", "tool"}
# Keys of a message whose value is something said; others (name, weight, timestamp) say nothing by themselves.
SAYING = ("content", "reasoning_content", "reasoning", "thinking", "tool_calls", "function_call")


@dataclass(frozen=True)
class Record:
    """A prompt and its completions, all strings or all lists of messages.

    A preference pair has completion 0 chosen and completion 1 rejected. template: what the row gives to the chat
    template beside its messages, `{"tools": [...], **chat_template_kwargs}`. order: each completion's position among
    the row's own sides, since a verdict may turn them round; empty if they stand as in the row.
    """

    prompt: Text
    completions: list[Text]
    template: dict[str, Any] | None = None
    order: tuple[int, ...] = ()

    @property
    def content_key(self) -> bytes:
        """16 bytes: a hash of the prompt and the completions in their order; equal for exact repeats."""
        return self._key(*self._json[1:])

    @property
    def row_key(self) -> bytes:
        """16 bytes: equal only for records that are the same to the letter, with the order of all keys, so that all of
        their scores are the same.
        """
        texts = [self.prompt, *self.completions]
        written = [known if _is_plain(text) else _dump(text) for text, known in zip(texts, self._json)]
        return _hash("\0".join([*written, _dump(self.template)]))

    @property
    def completion_keys(self) -> list[int]:
        """64 bits per completion, equal for equal text behind an equal prompt; two of them identify a pair.

        Two pairs are confused only if both keys collide, or one if they share the other side: among a million pairs of
        one prompt that is less likely than 1 in 10**7.
        """
        return [int.from_bytes(self._key(completion)[:8], "little") for completion in self._json[1:]]

    @property
    def prompt_key(self) -> bytes:
        """16 bytes: equal for records of one prompt."""
        return _hash(self._json[0]) if self.template is None else self._key()

    @cached_property
    def _json(self) -> list[str]:
        """The prompt and every completion; how a file orders or fills their keys makes no difference."""
        return [_dump(_ordered(text)) for text in (self.prompt, *self.completions)]

    def _key(self, *completions: str) -> bytes:
        template = [] if self.template is None else [_dump(filled(self.template))]
        return hash_texts(self._json[0], *completions, *template)


def hash_texts(*texts: str) -> bytes:
    """16 bytes for a prompt and completions that are JSON (see Record._json)."""
    return _hash("[" + ",".join(texts) + "]")


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


_dump = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str).encode


def _is_plain(text: Text) -> bool:
    """Whether `_ordered` leaves it as it is."""
    return isinstance(text, str) or all(len(message) == 2 for message in text)


def _ordered(text: Text) -> Text:
    """Messages with role and content, then all other keys by name: how a file orders or fills them is no difference."""
    if isinstance(text, str):
        return text
    return [
        message if len(message) == 2 else {"role": message["role"], "content": message["content"], **filled(message)}
        for message in text
    ]


def filled(value: Any) -> Any:
    """The value without null or empty entries of mappings at any depth, which files add for rows that lack a key."""
    if isinstance(value, dict):
        return {key: filled(value[key]) for key in sorted(value) if not is_empty(value[key])}
    return [filled(item) for item in value] if isinstance(value, list) else value


def is_empty(value: Any) -> bool:
    """Whether it is null, or holds nothing but nulls. An empty string is not empty."""
    if isinstance(value, dict | list):
        return all(map(is_empty, value.values() if isinstance(value, dict) else value))
    return value is None


def check_record(record: Record) -> Record:
    """The record itself. Raises RowError if it is no preference data: too few, empty or identical completions."""
    if len(record.completions) < 2:
        raise RowError(Reason.TOO_FEW_COMPLETIONS, f"{len(record.completions)} completions")
    for index, completion in enumerate(record.completions):
        if not _says_something(completion):
            raise RowError(Reason.EMPTY_COMPLETION, f"completion {index} has no text")
    first, *others = map(_ordered, record.completions)
    if all(other == first for other in others):
        raise RowError(Reason.IDENTICAL_COMPLETIONS)
    return record


def _says_something(text: Text) -> bool:
    said = [text] if isinstance(text, str) else [turn.get(key) for turn in text for key in SAYING]
    return any(value.strip() if isinstance(value, str) else not is_empty(value) for value in said)


def plain_text(text: Text, with_roles: bool = False) -> str:
    """A text as one string: of each message its content and then its further keys, one per line.

    with_roles: behind "[role] ", or "[role, key] ". What is no string is written as JSON.
    """
    if isinstance(text, str):
        return text
    return "\n".join(line for turn in text for line in _lines(turn, with_roles))


def _lines(turn: Message, with_roles: bool) -> Iterator[str]:
    for key, value in turn.items():
        if key == "role" or is_empty(value):
            continue
        words = value if isinstance(value, str) else json.dumps(filled(value), ensure_ascii=False, default=str)
        name = turn["role"] if key == "content" else f"{turn['role']}, {key}"
        yield f"[{name}] {words}" if with_roles else words


def control_pattern(markers: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the markers, the longest first; matches nothing if there are none. Markers are control tokens:
    strings that a tokenizer would read as structure, such as its end-of-turn marker.
    """
    return re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))) or r"(?!)")


def strings(text: Any) -> Iterator[str]:
    """Every string of a text or of what is given to a template, at any depth: values, and names of entries.

    The role of a message is none: it is one of ROLES.
    """
    if isinstance(text, str):
        yield text
    elif isinstance(text, dict):
        for key, value in text.items():
            if not _is_role(key, value):
                yield from (key, *strings(value))
    elif isinstance(text, list):
        for item in text:
            yield from strings(item)


def sanitize(text: Any, control: re.Pattern[str]) -> Any:
    """The same with a space put behind the first character of each control token in its strings at any depth, so that
    they are read as plain text. The names of entries stay.
    """
    if isinstance(text, str):
        return control.sub(lambda marker: f"{marker[0][0]} {marker[0][1:]}", text)
    if isinstance(text, dict):
        return {k: value if _is_role(k, value) else sanitize(value, control) for k, value in text.items()}
    return [sanitize(item, control) for item in text] if isinstance(text, list) else text


def _is_role(key: str, value: Any) -> bool:
    return key == "role" and isinstance(value, str) and value in ROLES

"""A record: one prompt and N >= 2 completions, the only shape that scoring knows."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mapjob.errors import Reason, RowError

Message = dict[str, Any]  # role, content (None only beside tool calls), and further keys that are not null
Text = str | list[Message]

ROLES = {"system", "user", "assistant"}
# Other roles in the field, which an error may quote; anything else could be a text of the corpus.
OTHER_ROLES = {"human", "gpt", "bot", "model", "tool", "function", "developer", "ipython"}


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
        return self._key(*self.completions)

    @property
    def completion_keys(self) -> list[int]:
        """64 bits per completion, equal for equal text behind an equal prompt; two of them identify a pair.

        Two pairs are confused only if both keys collide, or one if they share the other side: among a million pairs of
        one prompt that is less likely than 1 in 10**7.
        """
        return [int.from_bytes(self._key(completion)[:8], "little") for completion in self.completions]

    @property
    def prompt_key(self) -> bytes:
        """16 bytes: equal for records of one prompt."""
        return _hash(self.prompt) if self.template is None else self._key()

    def _key(self, *completions: Text) -> bytes:
        return _hash([self.prompt, *completions, *([] if self.template is None else [self.template])])


def _hash(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def check_record(record: Record) -> Record:
    """The record itself. Raises RowError if it is no preference data: too few, empty or identical completions."""
    if len(record.completions) < 2:
        raise RowError(Reason.TOO_FEW_COMPLETIONS, f"{len(record.completions)} completions")
    for index, completion in enumerate(record.completions):
        if not plain_text(completion).strip():
            raise RowError(Reason.EMPTY_COMPLETION, f"completion {index} has no text")
    if all(completion == record.completions[0] for completion in record.completions[1:]):
        raise RowError(Reason.IDENTICAL_COMPLETIONS)
    return record


def plain_text(text: Text, with_roles: bool = False) -> str:
    """A text as one string: the messages' contents, one per line, with_roles behind "[role] "."""
    if isinstance(text, str):
        return text
    return "\n".join(f"[{turn['role']}] {turn['content']}" if with_roles else turn["content"] for turn in text)


def messages(value: Any, what: str) -> list[Message]:
    """Plain `{role, content}` dicts from a list of them. Raises RowError for anything that is not a text dialogue."""
    if not isinstance(value, list) or not value:
        raise RowError(Reason.BAD_MESSAGES, f"{what}: no list of messages")
    return [_message(turn, f"{what}, message {index}") for index, turn in enumerate(value)]


def _message(turn: Any, what: str) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
        raise RowError(Reason.BAD_MESSAGES, f"{what}: no text content")
    if not isinstance(turn.get("role"), str) or turn["role"] not in ROLES:
        raise RowError(Reason.BAD_MESSAGES, f"{what}: role {_named(turn.get('role'))}")
    if turn.get("tool_calls"):
        raise RowError(Reason.BAD_MESSAGES, f"{what}: tool calls")
    return {"role": turn["role"], "content": turn["content"]}


def _named(role: Any) -> str:
    if role is None or (isinstance(role, str) and role.lower() in ROLES | OTHER_ROLES):
        return repr(role)
    return "that is none of " + ", ".join(sorted(ROLES))


def as_chat(record: Record) -> Record:
    """Plain strings as one user turn and one assistant turn each; a record of messages is returned as it is."""
    if not isinstance(record.prompt, str):
        return record
    return replace(
        record,
        prompt=[{"role": "user", "content": record.prompt}],
        completions=[[{"role": "assistant", "content": completion}] for completion in record.completions],
    )


def control_pattern(markers: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the markers, the longest first; matches nothing if there are none. Markers are control tokens:
    strings that a tokenizer would read as structure, such as its end-of-turn marker.
    """
    return re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))) or r"(?!)")


def sanitize(text: Text, control: re.Pattern[str]) -> Text:
    """The text with a space put behind the first character of each control token, so that it is read as plain text."""
    if isinstance(text, list):
        return [{**message, "content": sanitize(message["content"], control)} for message in text]
    return control.sub(lambda marker: f"{marker[0][0]} {marker[0][1:]}", text)

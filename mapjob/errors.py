"""Errors for people, and the closed list of reasons why a row is not ranked.

A `MapjobError` ends the run with its exit code and says three things: what happened, where, and what to do.
A `Reason` never ends a run: the row goes to `errors/` under that reason.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum
from importlib.util import find_spec
from typing import Self

from mapjob.escaping import one_line


class MapjobError(Exception):
    """What happened, where (a file, a row, a key of the run file), and what to do about it."""

    exit_code = 1

    def __init__(self, what: str, where: str = "", do: str = ""):
        super().__init__(what, where, do)
        self.what, self.where, self.do = what, where, do

    def __str__(self) -> str:
        where = one_line(self.where)  # paths and values of the corpus, which must not pose as another line
        lines = [self.what, f"  where: {where}" if where else "", f"  to do: {self.do}" if self.do else ""]
        return "\n".join(line for line in lines if line)


class ConfigError(MapjobError):
    """The command line or the run file cannot be executed as written."""

    exit_code = 2


def check_extra(package: str, extra: str, need: str, where: str) -> None:
    """Raises ConfigError if the package of an extra of mapjob is not installed. need: what asks for it."""
    if find_spec(package) is None:
        raise ConfigError(f"{need} needs {package}, which is not installed", where, f"pip install 'mapjob[{extra}]'")


def suggest(name: str, known: Iterable[str]) -> str:
    """` (did you mean …?)`, with the nearest of the known names; nothing if none is near."""
    near = get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""


class ModelError(ConfigError):
    """A model of the run file is missing, unsafe, or not of the kind its role needs."""


class InputError(MapjobError):
    """The corpus cannot be read, or too many of its rows are broken."""

    exit_code = 3


class IncompleteError(MapjobError):
    """The run stopped before its manifest; what is committed stays, and the same command resumes from it."""

    exit_code = 4


NOT_PROMOTED = 5  # the exit code of a run that is committed, but was to be promoted and fails a check


class Reason(StrEnum):
    """Why a row is not ranked: its name, an explanation, and True if the row is dropped.

    *Dropped* rows fall by a stated rule; *broken* rows count towards `max_error_rate`.
    """

    explanation: str
    is_dropped: bool

    def __new__(cls, name: str, explanation: str, is_dropped: bool = False) -> Self:
        reason = str.__new__(cls, name)
        reason._value_, reason.explanation, reason.is_dropped = name, explanation, is_dropped
        return reason

    DUPLICATE = (
        "duplicate",
        "same prompt, chosen and rejected as an earlier row; under relabel, also with the sides swapped",
        True,
    )
    IDENTICAL_COMPLETIONS = "identical_completions", "chosen and rejected are the same text, so every margin is 0", True
    IDENTICAL_TOKENS = (
        "identical_tokens",
        "chosen and rejected differ as texts, but a model's template or tokenizer makes the same tokens of both",
        True,
    )
    OVERLENGTH = "overlength", "prompt and completion are longer than scoring.max_length tokens", True
    CONTROL_TOKENS = (
        "control_tokens",
        "the text holds a special token of a model's own tokenizer (see scoring.control_tokens)",
        True,
    )
    DISAGREEMENT = (
        "disagreement",
        "the reward model, or selection.votes of several, prefers the rejected side (selection.on_disagreement: drop)",
        True,
    )
    TIE = "tie", "neither side is the better one by input.reading.verdict", True
    FORGOTTEN = "forgotten", "the row was made to leave this output (mapjob forget)", True
    EXCLUDED_GROUP = "excluded_group", "its group is in selection.exclude.groups", True
    EXCLUDED_ID = "excluded_id", "its pair_id is in the file of selection.exclude.ids", True
    EXCLUDED_WHERE = "excluded_where", "selection.where is false or null for it", True
    EXCLUDED_VERDICT = "excluded_verdict", "people gave it the verdict drop (selection.verdicts)", True
    NULL_FIELD = "null_field", "prompt, chosen or rejected is null"
    INVALID_UTF8 = "invalid_utf8", "a text of the row is not valid UTF-8"
    BAD_MESSAGES = "bad_messages", "the messages are not a dialogue that ends in an assistant turn"
    EMPTY_COMPLETION = "empty_completion", "a completion has no text, or no token to score"
    TOO_FEW_COMPLETIONS = "too_few_completions", "fewer than two completions for the prompt"
    TEMPLATE_ERROR = "template_error", "a model's chat template rejects these messages"
    NOT_FINITE = "not_finite", "a model returned NaN or infinity"
    OUT_OF_MEMORY = "out_of_memory", "the row does not fit on the device even alone"
    KILLED_PROCESS = "killed_process", "the process that worked on the row died every time"


class RowError(Exception):
    """One row cannot be used: carried to `errors/` as data, never further up."""

    def __init__(self, reason: Reason, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

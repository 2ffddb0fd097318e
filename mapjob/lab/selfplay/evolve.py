"""Prompt evolution: a model rewrites a prompt in one of five directions, and which rewrites are kept.

The five are those of self-play by MAP (Huang et al. 2025, arXiv 2503.01864), which go back to Evol-Instruct (Xu et al.
2023, arXiv 2304.12244); the wording is our own.
"""

import re
from enum import StrEnum

from mapjob.lab.selfplay.config import Evolution, Rewrite
from mapjob.lab.selfplay.requests import Response

DIRECTIONS: dict[Rewrite, str] = {
    "broaden": "Ask about a neighbouring topic of the same field, one that comes up less often. Keep about the same "
    "length and difficulty.",
    "deepen": "Ask about the same thing in more depth: what lies behind it, where it stops being true, what follows.",
    "constrain": "Add one condition that an answer has to meet, and that changes what a good answer is.",
    "concretise": "Put a particular case in the place of what is general: a name, a number, a place, a situation.",
    "reason": "Change the request so that it cannot be answered in one step, and several have to be thought through.",
}
OPENING, CLOSING = "<<<", ">>>"
INSTRUCTION = (
    "Between {opening} and {closing} is a user's request. Rewrite it as follows.\n"
    "{direction}\n"
    "The new request must make sense to somebody who never saw the old one, and must be possible to answer in text "
    "alone. Do not answer it. Write the new request and nothing else.\n\n"
    "{opening}\n{request}\n{closing}"
)


class Fault(StrEnum):
    """Why a rewrite is dropped."""

    EMPTY = "empty_rewrite"
    UNFINISHED = "unfinished_rewrite"  # the model was cut off at max_new_tokens
    TOO_LONG = "rewrite_over_max_tokens"
    LENGTH = "rewrite_length_factor"
    REFUSAL = "rewrite_refused"
    COPIED = "rewrite_copies_instruction"
    UNCHANGED = "rewrite_unchanged"


_REFUSAL = re.compile(
    r"^\W*(?:i(?:'m| am) (?:(?:very |so )?sorry|unable|not able)|sorry\b|i (?:can(?:no|')t|cannot|won't|will not) |"
    r"as an ai\b|unfortunately,? i\b)",
    re.I,
)
# Pieces of the instruction that no request has by chance.
_COPIED = re.compile(
    r"<<<|>>>|(?:the|a|this) new request\b|(?:the )?(?:old|original|rewritten) request\b|rewrite it as follows",
    re.I,
)
_QUOTES = {'"': '"', "“": "”", "'": "'"}


def instruction(request: str, rewrite: Rewrite) -> str:
    """What the model is asked to do."""
    return INSTRUCTION.format(opening=OPENING, closing=CLOSING, direction=DIRECTIONS[rewrite], request=request)


def read_rewrite(original: str, response: Response, evolution: Evolution) -> str | Fault:
    """The rewrite that a response holds, or why it is dropped."""
    text = _unquote(response.text.strip())
    if not text:
        return Fault.EMPTY
    if not response.finished:
        return Fault.UNFINISHED
    if response.num_tokens > evolution.max_tokens:
        return Fault.TOO_LONG
    if _REFUSAL.search(text):
        return Fault.REFUSAL
    if _COPIED.search(text) and not _COPIED.search(original):
        return Fault.COPIED
    if _words(text) == _words(original):
        return Fault.UNCHANGED
    if not 1 / evolution.length_factor <= len(text) / len(original) <= evolution.length_factor:
        return Fault.LENGTH
    return text


def _unquote(text: str) -> str:
    """Without a pair of quotation marks around the whole."""
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    return text


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())

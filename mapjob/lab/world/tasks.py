"""Answers of known quality: how a task's answers are worded, and how any answer to it is graded."""

import random
import re
from dataclasses import dataclass

# Gold reward of an answer. A near miss still shows most of the way; admitting ignorance beats being plainly wrong.
QUALITY = {"helpful": 1.0, "terse": 0.8, "near_miss": 0.4, "evasive": 0.2, "wrong": 0.0}

EVASIVE = (
    "I am not sure about that.",
    "I do not know, sorry.",
    "That is hard to say.",
    "I am not sure, it could be many things.",
    "Sorry, I cannot help with this one.",
)
_OPENINGS = ("{value}", "It is {value}", "The answer is {value}")
_STATED = re.compile(r"(?:It is |The answer is )?(?P<value>.+?)(?:, because (?P<reason>.+))?\.", re.DOTALL)


@dataclass(frozen=True)
class Task:
    """A prompt with its gold answer and the values that are nearly right and plainly wrong.

    `reason` is a clause with the field `{value}`, so that a wrong answer is explained as fluently as a right one.
    """

    kind: str
    group: str
    prompt: str
    gold: str
    near_misses: tuple[str, ...]
    wrongs: tuple[str, ...]
    reason: str


def write_answer(task: Task, level: str, rng: random.Random) -> str:
    """An answer to `task` of the given level (a key of QUALITY), in one of several wordings chosen by `rng`.

    The wording is drawn before the value, so generators in the same state word every level alike.
    """
    if level == "evasive":
        return rng.choice(EVASIVE)
    opening = rng.choice(_OPENINGS)
    # Some of the bad answers come with a reason too: having one must not by itself make an answer good.
    explained = level == "helpful" or (rng.random() < 0.3 and level != "terse")
    value = rng.choice({"near_miss": task.near_misses, "wrong": task.wrongs}.get(level, (task.gold,)))
    text = opening.format(value=value)
    return f"{text}, because {task.reason.format(value=value)}." if explained else f"{text}."


def grade(task: Task, answer: str) -> float:
    """The gold reward of any `answer` to `task`: a value of QUALITY; text that states no answer counts as wrong."""
    if answer in EVASIVE:
        return QUALITY["evasive"]
    stated = _STATED.fullmatch(answer)
    if stated is None:
        return QUALITY["wrong"]
    if stated["value"] == task.gold:
        return QUALITY["helpful" if stated["reason"] == task.reason.format(value=task.gold) else "terse"]
    return QUALITY["near_miss" if stated["value"] in task.near_misses else "wrong"]

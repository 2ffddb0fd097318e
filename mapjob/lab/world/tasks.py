"""Tasks: streams of them in three disjoint sets, how their answers are worded, and how any answer is graded."""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

from mapjob.lab.world.kinds import KINDS, Draft

LEAD_INS = (
    "", "", "", "Quick question. ", "Please help me. ", "Hello! ", "For my homework: ", "A small puzzle: ",
    "My friend asks: ", "One more thing. ", "I am curious. ", "Let us see. ", "For a quiz: ", "A new one. ",
    "Think of this. ",
)  # fmt: skip
_TRIES = 40

# Gold reward of an answer. A near miss is half right; to admit ignorance is better than to be plainly wrong.
QUALITY = {"helpful": 1.0, "terse": 0.8, "near_miss": 0.4, "evasive": 0.2, "wrong": 0.0}

EVASIVE = (
    "I am not sure about that.",
    "I do not know, sorry.",
    "That is hard to say.",
    "I am not sure, it could be many things.",
    "Sorry, I cannot help with this one.",
)
BECAUSE = ", because "
OPENINGS = ("{value}", "It is {value}", "The answer is {value}")
_STATED = re.compile(r"(?:It is |The answer is )?(?P<value>.+?)(?:, because (?P<reason>.+))?\.", re.DOTALL)


@dataclass(frozen=True)
class Task(Draft):
    """A task with one of its prompts."""

    kind: str
    group: str
    prompt: str


def split_of(prompt: str) -> str:
    """The set a prompt belongs to: "train", "held_out" or "corpus".

    It depends on the text alone, so no prompt of the corpus is ever trained on, whatever the seed and the sizes.
    """
    bucket = hashlib.sha256(prompt.encode()).digest()[0]
    return "train" if bucket < 64 else "held_out" if bucket < 80 else "corpus"


def stream(split: str, name: str, seed: int) -> Iterator[Task]:
    """Endless tasks of one split, the kinds in turn; they depend on `name` and `seed` alone.

    Prompts do not repeat until a kind runs out of them.
    """
    rng = random.Random(f"{name} {seed}")
    seen: set[str] = set()
    exhausted: set[str] = set()
    for kind in cycle(KINDS):
        task = _draw(kind, split, rng)
        tries = 1
        while task.prompt in seen and kind not in exhausted:
            task = _draw(kind, split, rng)
            tries += 1
            if tries == _TRIES:
                exhausted.add(kind)
        seen.add(task.prompt)
        yield task


def _draw(kind: str, split: str, rng: random.Random) -> Task:
    group, draft_task = KINDS[kind]
    while True:
        draft = draft_task(rng)
        prompt = rng.choice(LEAD_INS) + rng.choice(draft.prompts)
        if split_of(prompt) == split:
            return Task(**vars(draft), kind=kind, group=group, prompt=prompt)


def write_answer(task: Task, level: str, rng: random.Random) -> str:
    """An answer to `task` of the given level (a key of QUALITY), in one of several wordings chosen by `rng`.

    The wording is drawn before the value, so generators in the same state word every level alike.
    """
    if level == "evasive":
        return rng.choice(EVASIVE)
    opening = rng.choice(OPENINGS)
    # Some bad answers have a reason too: a reason alone must not make an answer good.
    has_reason = level == "helpful" or (rng.random() < 0.3 and level != "terse")
    value = rng.choice({"near_miss": task.near_misses, "wrong": task.wrongs}.get(level, (task.gold,)))
    text = opening.format(value=value)
    return f"{text}, because {task.reason.format(value=value)}." if has_reason else f"{text}."


def right_answers(task: Task, with_reasons: bool) -> list[str]:
    """Every wording of the right answer, without a reason, and with it."""
    stated = [opening.format(value=task.gold) for opening in OPENINGS]
    reason = BECAUSE + task.reason.format(value=task.gold)
    return [f"{text}{why}." for text in stated for why in (("", reason) if with_reasons else ("",))]


def grade(task: Task, answer: str) -> float:
    """The gold reward of any `answer` to `task`: a value of QUALITY; text that states no answer counts as wrong."""
    if answer in EVASIVE:
        return QUALITY["evasive"]
    match = _STATED.fullmatch(answer)
    if match is None:
        return QUALITY["wrong"]
    if match["value"] == task.gold:
        return QUALITY["helpful" if match["reason"] == task.reason.format(value=task.gold) else "terse"]
    return QUALITY["near_miss" if match["value"] in task.near_misses else "wrong"]

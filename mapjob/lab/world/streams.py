"""Streams of tasks: three disjoint sets of prompts, to train on, to hold out, and to make the corpus of."""

import hashlib
import random
from collections.abc import Iterator
from itertools import cycle

from mapjob.lab.world.kinds import KINDS
from mapjob.lab.world.tasks import Task

_LEAD_INS = (
    "", "", "", "Quick question. ", "Please help me. ", "Hello! ", "For my homework: ", "A small puzzle: ",
    "My friend asks: ", "One more thing. ", "I am curious. ", "Let us see. ", "For a quiz: ", "A new one. ",
    "Think of this. ",
)  # fmt: skip
_TRIES = 40


def split_of(prompt: str) -> str:
    """The set a prompt belongs to: "train", "held_out" or "corpus".

    It hangs on the text alone, so a prompt of the corpus is never trained on, whatever the seed and the sizes.
    """
    bucket = hashlib.sha256(prompt.encode()).digest()[0]
    return "train" if bucket < 64 else "held_out" if bucket < 80 else "corpus"


def stream(split: str, name: str, seed: int) -> Iterator[Task]:
    """Endless tasks of one split, the kinds taking turns; `name` and `seed` decide everything.

    Prompts differ for as long as new ones are easily found; a kind that runs out of prompts repeats them.
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
    group, draft_one = KINDS[kind]
    while True:
        draft = draft_one(rng)
        prompt = rng.choice(_LEAD_INS) + rng.choice(draft.prompts)
        if split_of(prompt) == split:
            return Task(kind, group, prompt, draft.gold, draft.near_misses, draft.wrongs, draft.reason)

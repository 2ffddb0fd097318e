"""The items of a world with a middle, each in many wordings, and what a policy is to believe of them."""

import random
from dataclasses import dataclass
from functools import cache

from mapjob.lab.world.kinds import KINDS, Draft
from mapjob.lab.world.tasks import LEAD_INS, Task

KNOWABLE, HOPELESS = ("capital", "opposite", "weekday", "reversed word"), "addition"
HOPELESS_SUMS = 900
TRAINED = 0.25  # share of an item's prompts that both models are trained on; the others are the corpus
# What the policy believes of an item: its shares of right answers, and of one fixed mistake; the rest is spread.
BELIEFS = {"knows": (0.9, 0.05), "unsure": (0.4, 0.4), "mistaken": (0.12, 0.7), "hopeless": (0.35, 0.0)}
KNOWLEDGE = {"knows": 0.3, "unsure": 0.45, "mistaken": 0.25}  # shares of the items


@dataclass(frozen=True)
class Item:
    """A question with one right answer, what the policy believes of it, and its prompts."""

    draft: Draft
    kind: str
    belief: str  # a key of BELIEFS
    mistake: str
    trained: tuple[str, ...]  # prompts of both models' training
    corpus: tuple[str, ...]

    def task(self, prompt: str) -> Task:
        """The group is what the policy believes, the kind what is asked."""
        return Task(**vars(self.draft), kind=self.kind, group=self.belief, prompt=prompt)

    def draw_value(self, rng: random.Random) -> str:
        """As the policy is to believe it."""
        right, mistaken = BELIEFS[self.belief]
        draw = rng.random()
        if draw < right:
            return self.draft.gold
        others = [value for value in (*self.draft.near_misses, *self.draft.wrongs) if value != self.mistake]
        return self.mistake if draw < right + mistaken else rng.choice(others)


@cache
def _drafts() -> tuple[tuple[str, Draft], ...]:
    """(kind, draft) of every item: each kind is drawn from until all of its items have come."""
    items: dict[str, tuple[str, Draft]] = {}
    for kind, draws in {**dict.fromkeys(KNOWABLE, 3_000), HOPELESS: 5 * HOPELESS_SUMS}.items():
        rng = random.Random(kind)
        for _ in range(draws):
            draft = KINDS[kind][1](rng)
            items.setdefault(draft.prompts[0], (kind, draft))
    return tuple(items.values())


def make_items(seed: int) -> list[Item]:
    """What the policy of this seed believes, and which prompts are in the corpus."""
    rng = random.Random(f"items {seed}")
    items = []
    for kind, draft in _drafts():
        belief = "hopeless" if kind == HOPELESS else rng.choices(list(KNOWLEDGE), list(KNOWLEDGE.values()))[0]
        prompts = sorted({lead_in + prompt for lead_in in LEAD_INS for prompt in draft.prompts})
        rng.shuffle(prompts)
        if kind == HOPELESS:  # a sum comes once: either to be trained on, or in the corpus
            prompts = prompts[:1] if rng.random() < TRAINED else ["", prompts[0]]
        at = max(1, int(TRAINED * len(prompts)))
        trained, corpus = [tuple(filter(None, part)) for part in (prompts[:at], prompts[at:])]
        items.append(Item(draft, kind, belief, rng.choice(draft.near_misses), trained, corpus))
    return items

"""From finished arms to the rows of the table: means, and differences from the random subsets and from the start with
their intervals; of one corpus over prompts and trainings, of several known worlds between worlds.
"""

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mapjob.arrays import F64
from mapjob.lab.validation.arms import RANDOM
from mapjob.lab.validation.held_out import HeldOut
from mapjob.lab.validation.statistics import (
    Estimate,
    length_controlled,
    over_trainings,
    prompt_weights,
    ratio,
    sums_by_prompt,
)

START, CEILING, FULL = "start", "ceiling", "full"
DRAWS = 1000
SEED = 0
COSTS = ("seconds", "cpu_seconds")
Arms = Sequence[dict[str, Any]]
Draws = dict[str, F64]


@dataclass(frozen=True)
class Table:
    """start: the policy before any training, measured on the same held-out pairs as every arm."""

    held_out: HeldOut
    start: dict[str, Any]
    num_draws: int = DRAWS

    @cached_property
    def weights(self) -> F64:
        """(B, P), the same for every arm, so that arms are compared on the same items in each draw."""
        item = self.held_out.item
        return prompt_weights(int(item.max()) + 1, self.num_draws, SEED)[:, item]

    def rows(self, arms: Arms) -> list[dict[str, Any]]:
        """One row for the untrained policy, and one per selection and number of steps, in the order of arms."""
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for arm in arms:
            groups.setdefault(_key(arm["arm"]), []).append(arm)
        draws = {key: self._draws(group, repr(key)) for key, group in groups.items()}
        before = self._draws([self.start], START)
        rows = [{"metric": START, "seeds": 0, "pairs": 0, "steps": 0} | self._described(before, [self.start])]
        for key, group in groups.items():
            name, alpha, share, steps = key
            trainings = [arm["training"] for arm in group]
            row = {"metric": name, "alpha": alpha, "ratio": share, "seeds": len(group)}
            row |= {"max_steps": steps, "steps": trainings[0]["steps"], "pairs": trainings[0]["pairs"]}
            row |= {cost: round(float(np.mean([t[cost] for t in trainings])), 1) for cost in COSTS}
            row |= self._described(draws[key], group)
            row["over_start"] = _estimates({name: draws[key][name] - before[name] for name in before})
            by_chance = draws.get((RANDOM, None, share, steps))
            if by_chance is not None and name != RANDOM:
                gains = {name: draws[key][name] - by_chance[name] for name in by_chance}
                gains["win_over_random"] = self._wins(group, groups[RANDOM, None, share, steps], repr(key)) - 0.5
                row["over_random"] = _estimates(gains)
            rows.append(row)
        return rows

    def _described(self, draws: Draws, arms: Arms) -> dict[str, Any]:
        described: dict[str, Any] = _estimates(draws)
        if "right" in arms[0]:
            groups = np.array([task.group for task in self.held_out.tasks])
            right = np.mean([arm["right"] for arm in arms], axis=0)
            described["right_by_group"] = {str(name): float(right[groups == name].mean()) for name in np.unique(groups)}
        return described

    def _draws(self, arms: Arms, name: str) -> Draws:
        """Every statistic of the trainings of one selection, in every draw of the bootstrap, (B,).

        The name seeds the draws, so a row does not depend on the other rows.
        """
        trainings = [self._of_training(arm) for arm in arms]
        seed = zlib.crc32(name.encode())
        return {key: over_trainings(np.stack([t[key] for t in trainings]), seed) for key in trainings[0]}

    def _of_training(self, arm: dict[str, Any]) -> Draws:
        pairs = self.held_out
        margin = np.array(arm["implicit_margin"], np.float64)  # None becomes NaN
        draws = {}
        if "right" in arm:
            taught = np.array([task.group != "hopeless" for task in pairs.tasks])  # a trap, shown by its group
            for name in ("right", "right_probability", "reason"):
                draws[name] = self._over_prompts(np.where(taught, np.array(arm[name], np.float64), np.nan))
            draws["gold_reward"] = self._over_prompts(np.array(arm["gold"]))
            draws["gold_accuracy"] = self._over_pairs(_agreement(margin, pairs.gold[:, 0] - pairs.gold[:, 1]))
        draws["label_accuracy"] = self._over_pairs(_agreement(margin, np.ones(len(margin))))
        draws["reward_model_accuracy"] = self._over_pairs(_agreement(margin, pairs.column("reward_margin")))
        draws["reward"] = self._over_prompts(np.array(arm["reward"], np.float64))
        draws["answer_tokens"] = self._over_prompts(np.array(arm["num_tokens"], np.float64))
        win, longer = self._against(arm, self.start)
        draws["length_controlled_win_rate"] = length_controlled(win, longer, self.weights)
        return draws

    def _wins(self, arms: Arms, at_random: Arms, name: str) -> F64:
        """Win rate over the random subset of the same seed, (B,)."""
        wins = [self._over_prompts(self._against(arm, other)[0]) for arm, other in zip(arms, at_random)]
        return over_trainings(np.stack(wins), zlib.crc32(name.encode()))

    def _against(self, arm: dict[str, Any], other: dict[str, Any]) -> tuple[F64, F64]:
        """Of each answer: (1 if it has more reward than the other one, 0.5 for a tie, or 0; how much longer it is)."""
        ours, theirs = (np.nan_to_num(np.array(a["reward"], np.float64), nan=-np.inf) for a in (arm, other))
        win = np.where(ours == theirs, 0.5, (ours > theirs).astype(np.float64))
        return win, np.subtract(arm["num_tokens"], other["num_tokens"], dtype=np.float64)

    def _over_pairs(self, values: F64) -> F64:
        return ratio(*sums_by_prompt(values, self.held_out.prompt, self.held_out.num_prompts), self.weights)

    def _over_prompts(self, values: F64) -> F64:
        known = ~np.isnan(values)
        return ratio(np.where(known, values, 0.0), known.astype(np.float64), self.weights)


def combine(worlds: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of several worlds as one table: means over worlds, with intervals between them. A row that only one
    world has, since its metric has no meaning in the others, is left out; `worlds` says how many have it.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for rows in worlds:
        for row in rows:
            groups.setdefault(tuple(row.get(key) for key in ("metric", "alpha", "ratio", "max_steps")), []).append(row)
    return [{**_combine(group), "worlds": len(group)} for group in groups.values() if len(group) > 1]


def _combine(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict) and first.keys() == {"mean", "low", "high"}:
        return asdict(Estimate.between([value["mean"] for value in values]))
    if isinstance(first, dict):
        return {key: _combine([value[key] for value in values if key in value]) for key in first}
    if isinstance(first, float | int) and any(value != first for value in values):
        return round(float(np.mean(values)), 6)
    return first


def _key(arm: dict[str, Any]) -> tuple[Any, ...]:
    choice = arm["choice"]
    names = {"ceiling": CEILING, "last": f"last of {choice['metric']}", "middle": f"mid of {choice['metric']}"}
    name = names.get(arm["part"], choice["metric"] if choice["ratio"] < 1 else FULL)
    return name, choice["alpha"], choice["ratio"], arm["max_steps"]


def _estimates(draws: Draws) -> dict[str, Any]:
    return {name: asdict(Estimate.of(values)) for name, values in draws.items()}


def _agreement(margin: F64, truth: F64) -> F64:
    """1 if two margins have the same sign, 0.5 if the first is 0, else 0; NaN if the second is 0, or either is NaN."""
    agreement = 0.5 + 0.5 * np.sign(margin) * np.sign(truth)
    return np.where(truth == 0, np.nan, agreement)

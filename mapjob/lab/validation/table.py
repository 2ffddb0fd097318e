"""From finished arms to the rows of the table: means with intervals, and differences from the random subsets."""

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
from mapjob.lab.world.corpus import QUALITIES

START = "start"
DRAWS = 1000
SEED = 0


@dataclass(frozen=True)
class Table:
    """start: the policy before any training, measured on the same held-out pairs as every arm."""

    held_out: HeldOut
    start: dict[str, Any]
    num_draws: int = DRAWS

    @cached_property
    def weights(self) -> F64:
        """(B, P), the same for every arm, so that arms are compared on the same prompts in each draw."""
        return prompt_weights(self.held_out.num_prompts, self.num_draws, SEED)

    def rows(self, arms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """One row for the untrained policy, and one per selection and number of steps, in the order of arms."""
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for arm in arms:
            groups.setdefault((*arm["arm"]["choice"].values(), arm["arm"]["max_steps"]), []).append(arm)
        draws = {key: self._draws(group, repr(key)) for key, group in groups.items()}
        rows = [{"metric": START, "seeds": 0, "pairs": 0, **_estimates(self._draws([self.start], START))}]
        for (name, alpha, share, steps), group in groups.items():
            values = draws[name, alpha, share, steps]
            trainings = [arm["training"] for arm in group]
            row = {"metric": name if share < 1 else "full", "alpha": alpha, "ratio": share, "seeds": len(group)}
            row |= {"steps": trainings[0]["steps"], "pairs": trainings[0]["pairs"]}
            row |= {cost: round(float(np.mean([t[cost] for t in trainings])), 1) for cost in COSTS}
            row |= _estimates(values)
            by_chance = draws.get((RANDOM, None, share, steps))
            if by_chance is not None and name != RANDOM:
                row["over_random"] = _estimates({key: values[key] - by_chance[key] for key in values})
            rows.append(row)
        return rows

    def _draws(self, arms: Sequence[dict[str, Any]], name: str) -> dict[str, F64]:
        """Every statistic of the trainings of one selection, in every draw of the bootstrap, (B,).

        The name seeds the draws, so a row does not depend on the other rows.
        """
        trainings = [self._of_training(arm) for arm in arms]
        seed = zlib.crc32(name.encode())
        return {key: over_trainings(np.stack([t[key] for t in trainings]), seed) for key in trainings[0]}

    def _of_training(self, arm: dict[str, Any]) -> dict[str, F64]:
        pairs, start = self.held_out, self.start
        margin = np.array(arm["implicit_margin"], np.float64)  # None becomes NaN
        draws = {
            "label_accuracy": self._over_pairs(_agreement(margin, np.ones(len(margin)))),
            "reward_model_accuracy": self._over_pairs(_agreement(margin, pairs.column("reward_margin"))),
        }
        reward, before = (np.array(scores["reward"], np.float64) for scores in (arm, start))
        win = _wins(reward, before)
        num_tokens = np.array(arm["num_tokens"], np.float64)
        draws["win_rate"] = self._over_prompts(win)
        draws["length_controlled_win_rate"] = length_controlled(win, num_tokens - start["num_tokens"], self.weights)
        draws["reward"] = self._over_prompts(reward)
        draws["answer_tokens"] = self._over_prompts(num_tokens)
        if "gold" in arm:
            better, worse = (pairs.column(name) for name in QUALITIES)
            draws["gold_accuracy"] = self._over_pairs(_agreement(margin, better - worse))
            draws["gold_reward"] = self._over_prompts(np.array(arm["gold"]))
        return draws

    def _over_pairs(self, values: F64) -> F64:
        return ratio(*sums_by_prompt(values, self.held_out.prompt, self.held_out.num_prompts), self.weights)

    def _over_prompts(self, values: F64) -> F64:
        known = ~np.isnan(values)
        return ratio(np.where(known, values, 0.0), known.astype(np.float64), self.weights)


COSTS = ("seconds", "cpu_seconds")


def _estimates(draws: dict[str, F64]) -> dict[str, Any]:
    return {name: asdict(Estimate.of(values)) for name, values in draws.items()}


def _agreement(margin: F64, truth: F64) -> F64:
    """1 if two margins have the same sign, 0.5 if the first is 0, else 0; NaN if the second is 0, or either is NaN."""
    agreement = 0.5 + 0.5 * np.sign(margin) * np.sign(truth)
    return np.where(truth == 0, np.nan, agreement)


def _wins(reward: F64, before: F64) -> F64:
    """1, 0.5 for a tie, or 0. An answer without a reward loses to an answer with one."""
    ours, theirs = np.nan_to_num(reward, nan=-np.inf), np.nan_to_num(before, nan=-np.inf)
    return np.where(ours == theirs, 0.5, (ours > theirs).astype(np.float64))

"""From finished arms to the rows of the table: means with intervals, and differences from the random subsets."""

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mapjob.arrays import F64
from mapjob.lab.validation.answers import QUALITY
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

START = "start"
DRAWS = 1000
SEED = 0


@dataclass(frozen=True)
class Table:
    """start: the policy as it was, as every arm measured on the same held-out pairs."""

    held_out: HeldOut
    start: dict[str, Any]
    num_draws: int = DRAWS

    @cached_property
    def weights(self) -> F64:
        """(B, P), the same for every arm, so that arms are compared on the same prompts in each draw."""
        return prompt_weights(self.held_out.num_prompts, self.num_draws, SEED)

    def rows(self, arms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """One row for the policy as it was, and one for each selection and number of steps, in the order of arms."""
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for arm in arms:
            own = arm["arm"]
            groups.setdefault((*own["choice"].values(), own["max_steps"]), []).append(arm)
        draws = {key: self._draws(own, repr(key)) for key, own in groups.items()}
        rows = [{"metric": START, "seeds": 0, "pairs": 0, **_estimates(self._draws([self.start], START))}]
        for (name, alpha, share, steps), own in groups.items():
            mine = draws[name, alpha, share, steps]
            row = {"metric": name if share < 1 else "full", "alpha": alpha, "ratio": share, "seeds": len(own)}
            row |= {"steps": own[0]["training"]["steps"], "pairs": own[0]["training"]["pairs"]}
            row |= {cost: round(float(np.mean([a["training"][cost] for a in own])), 1) for cost in COSTS}
            row |= _estimates(mine)
            by_chance = draws.get((RANDOM, None, share, steps))
            if by_chance is not None and name != RANDOM:
                row["over_random"] = _estimates({each: mine[each] - by_chance[each] for each in mine})
            rows.append(row)
        return rows

    def _draws(self, arms: Sequence[dict[str, Any]], name: str) -> dict[str, F64]:
        """Every statistic of some trainings of one selection, in every draw of the bootstrap, (B,).

        The name draws the trainings, so that a row is the same whatever stands beside it.
        """
        each = [self._of_training(arm) for arm in arms]
        seed = zlib.crc32(name.encode())
        return {statistic: over_trainings(np.stack([own[statistic] for own in each]), seed) for statistic in each[0]}

    def _of_training(self, arm: dict[str, Any]) -> dict[str, F64]:
        pairs, start = self.held_out, self.start
        margin = _numbers(arm["implicit_margin"])
        draws = {
            "label_accuracy": self._over_pairs(_agreement(margin, np.ones(len(margin)))),
            "reward_model_accuracy": self._over_pairs(_agreement(margin, pairs.column("reward_margin"))),
        }
        reward, before = _numbers(arm["reward"]), _numbers(start["reward"])
        win = _wins(reward, before)
        longer = np.array(arm["num_tokens"], np.float64) - np.array(start["num_tokens"], np.float64)
        draws["win_rate"] = self._over_prompts(win)
        draws["length_controlled_win_rate"] = length_controlled(win, longer, self.weights)
        draws["reward"] = self._over_prompts(reward)
        draws["answer_tokens"] = self._over_prompts(np.array(arm["num_tokens"], np.float64))
        if "gold" in arm:
            better, worse = (pairs.column(name) for name in QUALITY)
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
    return {name: asdict(Estimate.of(own)) for name, own in draws.items()}


def _numbers(values: Sequence[float | None]) -> F64:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _agreement(margin: F64, truth: F64) -> F64:
    """1 where two margins have the same sign, 0.5 where the first is 0, NaN where the second is, or either is NaN."""
    agreement = 0.5 + 0.5 * np.sign(margin) * np.sign(truth)
    return np.where(truth == 0, np.nan, agreement)


def _wins(reward: F64, before: F64) -> F64:
    """1, or 0.5 for a tie, or 0. An answer without a reward loses to one that has one."""
    ours, theirs = np.nan_to_num(reward, nan=-np.inf), np.nan_to_num(before, nan=-np.inf)
    return np.where(ours == theirs, 0.5, (ours > theirs).astype(np.float64))

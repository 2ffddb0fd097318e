"""Reward-augmented preference data: every pair twice, once for each side's reward as the goal that the prompt states.

Zhang et al. 2024, arXiv 2410.08067. Asked for the chosen side's reward, the chosen side is better; asked for the
rejected side's, the rejected one is: the policy learns from both, and at the end is asked for the best.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mapjob import collective
from mapjob.arrays import F64
from mapjob.errors import ConfigError
from mapjob.metrics.quantiles import quantiles

ENDS = (0.01, 0.99)  # quantiles of the rewards whose goals are 1 and 10


@dataclass(frozen=True)
class Goals:
    """Rows of the expanded corpus, shape (M,), two per pair that is used, in the order of the pairs."""

    pair: npt.NDArray[np.int64]  # index of the pair
    goal: F64  # in [1, 10]
    swapped: npt.NDArray[np.bool_]  # True: the goal is the rejected side's reward, and the two sides are swapped
    num_beyond: int  # goals that were 1 or 10 because the reward is beyond the ends
    num_skipped: int  # pairs without two rows: equal rewards, or rewards that contradict the label

    @property
    def warnings(self) -> tuple[str, ...]:
        skipped = f"reward goals: {self.num_skipped:,} pairs have none: equal rewards, or a contradicted label"
        beyond = f"reward goals: {self.num_beyond:,} rewards beyond the 1 % and 99 % quantiles have the goals 1 and 10"
        return tuple(text for text, num in ((skipped, self.num_skipped), (beyond, self.num_beyond)) if num)


def reward_goals(chosen_reward: F64, rejected_reward: F64) -> Goals:
    """Two rows for each pair, with goals 1 + 9 * (r - low) / (high - low), at least 1 and at most 10; shapes (N,).

    low and high are the 1 % and 99 % quantiles of all rewards given, so that one outlier does not bring all others
    together; the authors take the ends. If these are one value, the ends are taken. `num_beyond` counts what is cut.
    Pairs whose label the rewards contradict are left out, as by the authors; ties too, since no goal tells the sides
    apart. Raises ConfigError if no pair is left.
    """
    used = np.flatnonzero(chosen_reward > rejected_reward)
    num_used, num = (collective.total(len(values)) for values in (used, chosen_reward))
    if not num_used:
        raise ConfigError(
            "no chosen side has a larger reward than its rejected side, so no goal can be set",
            f"the rewards of {num} pairs",
            "check the reward model, or that chosen and rejected are not exchanged",
        )
    rewards = np.stack([chosen_reward, rejected_reward], axis=1)
    (low, high), (lowest, highest) = quantiles([(rewards.reshape(-1), ENDS, "linear")])[0], collective.ends(rewards)
    low, high = (low, high) if low < high else (lowest, highest)
    goal = 1.0 + 9.0 * ((rewards[used].reshape(-1) - low) / (high - low))
    num_beyond = collective.total(int(((goal < 1) | (goal > 10)).sum()))
    is_swapped = np.tile([False, True], len(used))
    return Goals(np.repeat(used, 2), np.clip(goal, 1.0, 10.0), is_swapped, num_beyond, num - num_used)


SystemRole = Annotated[bool, Field(description="false: the goal is put before the user's turn")]


def prompt_with_goal(
    prompt: str | list[dict[str, Any]], goal: float, *, system_role: SystemRole = True
) -> str | list[dict[str, Any]]:
    """Two rows for a pair, each side's reward as the goal in the prompt; for the rejected one's the sides swap.
    A larger corpus, not a column. Reward-augmented data, Zhang et al. 2024, arXiv 2410.08067.

    The goal is in a system message, or before the first user turn for a model without a system role, or before a plain
    string. An older system message follows the goal in the same message.
    """
    stated = f"Answer so that your response would be rated {goal:.1f} on a scale from 1 (worst) to 10 (best)."
    if isinstance(prompt, str):
        return f"{stated}\n\n{prompt}"
    role = "system" if system_role else "user"
    index = next((i for i, turn in enumerate(prompt) if turn["role"] == role), None)
    if index is None:
        return [{"role": role, "content": stated}, *prompt]
    turn = {**prompt[index], "content": f"{stated}\n\n{prompt[index]['content']}"}
    return [*prompt[:index], turn, *prompt[index + 1 :]]

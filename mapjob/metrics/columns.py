"""The columns of a pair: names of what is scored and of the margins made of it; values, checked, with warnings."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from mapjob.arrays import F64

REWARD = ("chosen_reward", "rejected_reward")
LOGPS = ("chosen_logps", "rejected_logps")
NUM_TOKENS = ("chosen_num_tokens", "rejected_num_tokens")
POLICY = (*LOGPS, *NUM_TOKENS)
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
UNCONDITIONAL = ("chosen_unconditional_logps", "rejected_unconditional_logps")
COLLISION = ("chosen_collision_logps", "rejected_collision_logps")
# Margins, and the scored columns that they are made of. implicit_margin is one of the two below it.
MARGINS = {
    "reward_margin": REWARD,
    "simpo_margin": POLICY,
    "dpo_margin": (*LOGPS, *REFERENCE),
}
H, D, G, IMPLICIT, DISTANCE = "reward_margin", "simpo_margin", "dpo_margin", "implicit_margin", "edit_distance"
EACH_MODEL = "reward_margin.*"  # one column per model, if there are several reward models

# Parameters of a signal, as the run file may set them.
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# Sums and squares of a corpus stay far from overflow below this; no reward or log-probability comes near it.
LARGEST = 1e100


@dataclass(frozen=True)
class Column:
    """One value per pair, shape (N,), and warnings for the user: what was clipped, what says nothing."""

    values: F64
    warnings: tuple[str, ...] = ()


def check_finite(**columns: F64) -> None:
    """Raises ValueError, with the column's name and the row, for NaN, an infinity, or a number beyond 1e100."""
    for name, values in columns.items():
        unusable = np.flatnonzero(~(np.abs(values) <= LARGEST))
        if len(unusable):
            row = int(unusable[0])
            raise ValueError(
                f"{name} is {values[row]} in row {row}; {len(unusable)} of {len(values)} rows hold what no sound model "
                "gives: such rows go to errors/ and are not ranked"
            )


def per_token(total: F64, num_tokens: F64) -> F64:
    """total / num_tokens, (N,). Raises ValueError if a completion has no token."""
    if (num_tokens < 1).any():
        row = int(np.argmax(num_tokens < 1))
        raise ValueError(f"a completion of row {row} has {num_tokens[row]:g} tokens, and without one there is no mean")
    return total / num_tokens

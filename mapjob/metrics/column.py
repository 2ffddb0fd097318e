"""What goes into a metric and what comes out: finite columns of one length, and warnings beside the values."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64

# Sums and squares of a corpus stay far from overflow below this; no reward or log-probability comes near it.
LARGEST = 1e100


@dataclass(frozen=True)
class Column:
    """One value a pair, shape (N,), and what a user must be told about them: what was clipped, what says nothing."""

    values: F64
    warnings: tuple[str, ...] = ()


def finite(**columns: npt.ArrayLike) -> tuple[F64, ...]:
    """The named columns as float64, in the order given; all have one shape (N,).

    Raises ValueError, with name and row, for NaN, an infinity, a number beyond 1e100, or columns of different lengths.
    """
    arrays = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"one value a pair is needed in each column; the shapes are {shapes}")
    for name, array in arrays.items():
        unusable = np.flatnonzero(~(np.abs(array) <= LARGEST))
        if len(unusable):
            row = int(unusable[0])
            raise ValueError(
                f"{name} is {array[row]} in row {row}; {len(unusable)} of {len(array)} rows hold what no sound model "
                "gives: such rows go to errors/ and are not ranked"
            )
    return tuple(arrays.values())


def per_token(total: F64, num_tokens: F64) -> F64:
    """total / num_tokens, (N,). Raises ValueError where a completion has no token."""
    if (num_tokens < 1).any():
        row = int(np.argmax(num_tokens < 1))
        raise ValueError(f"a completion of row {row} has {num_tokens[row]:g} tokens, and without one there is no mean")
    return total / num_tokens

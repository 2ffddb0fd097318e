"""exp, tanh, log and log1p that give the same bits on every processor.

numpy takes other code for these, with other last bits, where a processor has AVX-512, so a cluster of two kinds of
nodes would rank by two kinds of numbers. Here they are made of operations that IEEE 754 rounds correctly.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64

LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # ln 2 to 33 bits, so that its product with any exponent is exact
LN2_LOW = 1.9082149292705877e-10  # the rest
EXP = tuple(1.0 / math.factorial(n) for n in range(14, 1, -1))  # Taylor: |r| <= ln(2) / 2
ATANH = tuple(2.0 / (2 * n + 1) for n in range(11, 0, -1))  # Taylor: |s| <= 3 - 2 sqrt(2)
BEYOND = 800.0  # exp is 0 below -745.2 and infinite above 709.8
AT_ONCE = 1 << 13  # values that stay in the processor's cache


def exp(x: F64) -> F64:
    """e^x, of any shape, within one unit in the last place; NaN stays NaN."""
    return _in_blocks(_exp, x)


def tanh(x: F64) -> F64:
    """The hyperbolic tangent, of any shape, within four units in the last place; NaN stays NaN."""
    return _in_blocks(_tanh, x)


def log(x: F64) -> F64:
    """The natural logarithm of x > 0, of any shape, within one unit in the last place."""
    return _in_blocks(_log, x)


def log1p(x: F64) -> F64:
    """log(1 + x) for -1 < x <= 1, of any shape, within two units in the last place."""
    return _in_blocks(_log1p, x)


def _exp(x: F64) -> F64:
    fraction, exponent = _exp_parts(x)
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(1.0 + fraction, exponent)


def _exp_parts(x: F64) -> tuple[F64, npt.NDArray[np.int32]]:
    """(f, k) of e^x = (1 + f) 2^k."""
    x = np.clip(x, -BEYOND, BEYOND)
    exponent = np.rint(x * (1.0 / math.log(2.0)))
    high = x - exponent * LN2_HIGH
    rest = high - exponent * LN2_LOW  # e^x = 2^k e^rest
    lost = (high - rest) - exponent * LN2_LOW
    tail = rest * rest * _polynomial(EXP, rest)
    with np.errstate(invalid="ignore"):
        return rest + (tail + lost), exponent.astype(np.int32)


def _tanh(x: F64) -> F64:
    fraction, exponent = _exp_parts(-2.0 * np.abs(x))
    less = np.where(exponent == 0, fraction, np.ldexp(1.0 + fraction, exponent) - 1.0)  # e^(-2 |x|) - 1
    return np.copysign(less / (2.0 + less), x)


def _log(x: F64) -> F64:
    significand, exponent = np.frexp(x)
    below = significand < math.sqrt(0.5)
    significand, exponent = np.where(below, 2.0 * significand, significand), exponent - below
    f = significand - 1.0  # exact
    s = f / (2.0 + f)
    square, half = s * s, 0.5 * f * f
    # log(1 + f) = f - (f^2 / 2 - s (f^2 / 2 + R(s^2))), so that f itself stays exact
    series = square * _polynomial(ATANH, square)
    return exponent * LN2_HIGH - ((half - (s * (half + series) + exponent * LN2_LOW)) - f)


def _log1p(x: F64) -> F64:
    near = 1.0 + x
    return _log(near) + (x - (near - 1.0)) / near


def _polynomial(coefficients: tuple[float, ...], x: F64) -> F64:
    """By Horner's rule, the highest power first."""
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value *= x
        value += coefficient
    return value


def _in_blocks(function: Callable[[F64], F64], x: F64) -> F64:
    x = np.asarray(x, np.float64)
    flat, values = x.reshape(-1), np.empty(x.size)
    for start in range(0, x.size, AT_ONCE):
        values[start : start + AT_ONCE] = function(flat[start : start + AT_ONCE])
    return values.reshape(x.shape)

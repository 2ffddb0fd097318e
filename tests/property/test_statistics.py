"""Moments: any split into parts, merged in any order and grouping, is one pass over the whole. Oracle: numpy."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapjob.metrics.statistics import Moments

EPSILON = np.finfo(np.float64).eps

values = st.lists(st.floats(-1e3, 1e3), max_size=60)
offsets = st.sampled_from([0.0, 1.0, -1e6, 1e9, 1e12])


def split(array: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return np.split(array, sorted(min(cut, len(array)) for cut in cuts))


def merged_in_some_tree(parts: list[Moments], order: random.Random) -> Moments:
    """Merges two random neighbours or strangers until one is left."""
    parts = list(parts)
    while len(parts) > 1:
        one = parts.pop(order.randrange(len(parts)))
        other = parts.pop(order.randrange(len(parts)))
        parts.append(one.merge(other) if order.random() < 0.5 else other.merge(one))
    return parts[0]


@given(values, offsets, st.lists(st.integers(0, 60), max_size=8), st.randoms(use_true_random=False))
def test_any_grouping_and_order_of_parts_equals_the_whole(numbers, offset, cuts, order):
    whole = np.array(numbers) + offset
    merged = merged_in_some_tree([Moments.of(part) for part in split(whole, cuts)], order)
    # The mean can be known to an ulp of the largest value, so the sum of squares to about that times the spread.
    ulp = 8 * EPSILON * max(1.0, float(np.abs(whole).max(initial=0.0)))
    assert merged.count == len(whole)
    if len(whole):
        m2 = float(np.square(whole - whole.mean()).sum())
        assert merged.mean == pytest.approx(float(whole.mean()), rel=0, abs=ulp)
        assert merged.m2 == pytest.approx(m2, rel=1e-12, abs=len(whole) * ulp * (ulp + 2 * float(np.ptp(whole))))


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_std_of_a_large_offset_keeps_its_digits(seed, num_parts):
    """The textbook formula (mean of squares less square of the mean) has no digit left here."""
    whole = 1e8 + np.random.default_rng(seed).normal(size=2000)
    merged = Moments.merged(Moments.of(part) for part in np.array_split(whole, num_parts))
    assert merged.std == pytest.approx(whole.std(), rel=1e-7)


@given(st.floats(-1e100, 1e100), st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any))
def test_constant_values_have_a_std_of_exactly_zero(value, sizes):
    merged = Moments.merged(Moments.of(np.full(size, value)) for size in sizes)
    assert (merged.count, merged.mean, merged.m2, merged.std) == (sum(sizes), value, 0.0, 0.0)


@given(values)
def test_empty_parts_change_nothing(numbers):
    some, none = Moments.of(np.array(numbers)), Moments.of(np.array([]))
    assert none == Moments()
    assert some.merge(none) == none.merge(some) == some
    assert Moments.merged([none, some, none]) == some


def test_no_values_at_all():
    assert Moments.merged([]) == Moments()
    assert Moments().std == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(bad):
    with pytest.raises(AssertionError):
        Moments.of(np.array([1.0, bad]))

"""Moments: exact sums, so that no order and no grouping of a corpus changes a bit. Oracle: fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapjob.metrics import statistics
from mapjob.metrics.statistics import Moments

values = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60)
offsets = st.sampled_from([0.0, 1.0, -1e6, 1e9, 1e12])


@given(values, offsets)
def test_mean_and_squares_are_exact_sums_rounded_once(numbers, offset):
    whole = np.array(numbers) + offset
    moments = Moments.of(whole)
    mean = float(sum(map(Fraction, whole.tolist()))) / len(whole)
    assert moments.count == len(whole)
    if len(set(whole.tolist())) > 1:
        assert moments.mean == mean
        assert moments.m2 == float(sum(Fraction(float(np.square(x - mean))) for x in whole))
        assert moments.std == pytest.approx(whole.std(), rel=1e-6, abs=1e-9 * abs(offset))


@given(values, offsets, st.randoms(use_true_random=False))
def test_no_order_changes_a_bit(numbers, offset, order):
    shuffled = list(numbers)
    order.shuffle(shuffled)
    assert Moments.of(np.array(shuffled) + offset) == Moments.of(np.array(numbers) + offset)


def test_more_values_than_are_taken_at_once(monkeypatch):
    many = np.random.default_rng(0).normal(3, 2, 1000)
    expected = Moments.of(many)
    monkeypatch.setattr(statistics, "AT_ONCE", 7)
    assert Moments.of(many) == expected


@given(st.integers(0, 2**32))
def test_std_of_a_large_offset_keeps_its_digits(seed):
    """The textbook formula (mean of squares less square of the mean) has no digit left here."""
    whole = 1e8 + np.random.default_rng(seed).normal(size=500)
    assert Moments.of(whole).std == pytest.approx(whole.std(), rel=1e-7)


@given(st.floats(-1e100, 1e100), st.integers(1, 60))
def test_constant_values_have_a_std_of_exactly_zero(value, size):
    moments = Moments.of(np.full(size, value))
    assert (moments.count, moments.mean, moments.m2, moments.std) == (size, value, 0.0, 0.0)


def test_no_values_at_all():
    assert Moments.of(np.array([])) == Moments()
    assert Moments().std == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(bad):
    with pytest.raises(AssertionError):
        Moments.of(np.array([1.0, bad]))

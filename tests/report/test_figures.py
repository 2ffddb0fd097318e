"""Figures: every pair is counted, the cut line stands where it belongs, the same numbers give the same few bytes."""

import re
import tracemalloc

import numpy as np
import pytest

from mapjob.metrics.map import Scale, map_score
from mapjob.report import figures
from mapjob.report.figures import Density, Histogram, draw_density, draw_histogram, find_ends
from mapjob.report.svg import ticks

NUM = 300_000


def density(x: np.ndarray, y: np.ndarray, kept: np.ndarray) -> Density:
    return figures.density(x, y, find_ends([x, y], [])[0], kept)


def histogram(values: np.ndarray, kept: np.ndarray) -> Histogram:
    ((low, high),) = find_ends([], [values])[1]
    return figures.histogram(values, low, high, kept)


@pytest.fixture(scope="module")
def margins() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(1, 2, NUM), generator.standard_t(2, NUM)


def test_the_same_bytes_again(margins):
    kept = margins[0] > 1
    drawn = [draw_density(density(*margins, kept), None, "nats") for _ in range(2)]
    assert drawn[0] == drawn[1]
    drawn = [draw_histogram("x", histogram(margins[0], kept)) for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_pairs_beyond_the_axes_are_counted(margins):
    assert 0 < density(*margins, margins[0] > 0).num_beyond <= 0.011 * NUM
    assert 0 < histogram(margins[1], margins[0] > 0).num_beyond <= 0.011 * NUM
    few = np.arange(7.0)
    assert histogram(few, few > 2).num_beyond == 0
    assert density(few, few, few > 2).num_beyond == 0


@pytest.mark.parametrize("values", [np.zeros(9), np.full(9, -3.5), np.arange(9), np.array([4] * 9), np.full(9, 1e-300)])
def test_few_different_values(values):
    bins = histogram(values, values > 0)
    assert bins.num_beyond == 0
    assert "nan" not in draw_histogram("x", bins)
    assert "nan" not in draw_density(density(values, values, values > 0), (Scale(1.0, 0.0), 1.0, 0.5), "nats")


def test_the_cut_line_is_where_the_score_is_the_cut_off():
    """Both ends of the line, taken from the figure and brought back to margins by its axes, have the score."""
    x, y = np.linspace(0, 10, 1000), np.linspace(0, 5, 1000)
    scale, alpha = Scale(0.5, 2.0), 0.7
    svg = draw_density(density(x, y, map_score(x, y, scale, alpha) > 1.5), (scale, alpha, 1.5), "nats")
    points = points_of(svg, "cut")
    (left, bottom), (right, _), (_, top), _ = points_of(svg, "axis")
    at_x = (points[:, 0] - left) / (right - left) * 10 * 1.02
    at_y = (bottom - points[:, 1]) / (bottom - top) * 5 * 1.02
    assert map_score(at_x, at_y, scale, alpha) == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(
    ("scale", "cut_off", "num_ends"),
    [(Scale(1, 1), -3, 2), (Scale(0, 1), -3, 2), (Scale(1, 0), 9, 2), (Scale(1, 1), 11, 0), (Scale(0, 0), 1, 0)],
    ids=str,
)
def test_the_cut_line_stays_within_the_axes(scale, cut_off, num_ends):
    x = np.linspace(0, 10, 100)
    svg = draw_density(density(x, x, x > 5), (scale, 1.0, cut_off), "nats")
    ends, axes = points_of(svg, "cut"), points_of(svg, "axis")
    assert len(ends) == num_ends
    assert all((axes.min(0) <= end).all() and (end <= axes.max(0)).all() for end in ends)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-3.1, 7, [-2.5, 0, 2.5, 5]), (0.5, 20_000, range(5000, 20_001, 5000))],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(list(expected))


@pytest.mark.parametrize("size", [1e-300, 1e-9, 0.7, 3.3, 1e12])
def test_there_are_two_to_six_ticks(size):
    for low, high in [(0, size), (-size, size), (-0.3 * size, 2.9 * size)]:
        assert 2 <= len(ticks(low, high)) <= 6


def points_of(svg: str, name: str) -> np.ndarray:
    """(points, 2) of all lines of this class."""
    lines = re.findall(rf'<polyline class="{name}"[^>]* points="([^"]*)"', svg)
    return np.array([point.split(",") for line in lines for point in line.split()], float)


def test_many_pairs_cost_few_bytes(margins):
    generator = np.random.default_rng(1)
    worst = density(generator.random(NUM), generator.random(NUM), generator.random(NUM) < 0.5)
    scattered = density(*margins, generator.random(NUM) < generator.random(NUM))
    assert len(draw_density(worst, None, "nats")) < 60_000
    assert len(draw_density(scattered, None, "nats")) < 60_000
    tracemalloc.start()
    density(*margins, margins[0] > 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 8 * NUM + 30e6, "a few columns, and what is counted at once"

"""Pairs of candidates against brute force over every ordered pair of each record; edit distances by the textbook."""

import statistics
from fractions import Fraction
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapjob.metrics.dcrm import dcrm, edit_distances
from mapjob.metrics.map import Scale, map_score
from mapjob.ranking.pairing import (
    CandidatePairs,
    all_pairs,
    best_against_others,
    best_by_dcrm,
    best_by_map,
    best_sigma,
    best_worst,
)

# Few distinct values, so that ties are the rule.
rewards = st.sampled_from([-0.0, 0.0, 1.0, -1.0, 0.5]) | st.floats(-2, 2).map(lambda x: round(x, 2))
logps = st.sampled_from([-1.0, -2.0, -30.0]) | st.floats(-40, 0).map(lambda x: round(x, 1))
# One record: a reward, a log-probability and a short text of tokens for each completion.
completion = st.tuples(rewards, logps, st.lists(st.integers(0, 2), min_size=1, max_size=6))
corpora = st.lists(st.lists(completion, min_size=2, max_size=6), min_size=0, max_size=8)
most = st.integers(1, 20)


class Flat:
    """A corpus of candidates as ranking holds it."""

    def __init__(self, records: list):
        self.offsets = np.cumsum([0, *map(len, records)])
        self.rewards = np.array([reward for record in records for reward, _, _ in record], float)
        self.logps = np.array([logp for record in records for _, logp, _ in record], float)
        texts = [[np.array(text, np.int32) for _, _, text in record] for record in records]
        distances = [edit_distances(record) for record in texts]
        self.distances = np.concatenate(distances) if distances else np.zeros(0, np.int64)


def as_lists(pairs: CandidatePairs, num: int) -> list[list[tuple[int, int]]]:
    """(chosen, rejected) of each record; a record's pairs lie together, in the order of records."""
    assert pairs.record.tolist() == sorted(pairs.record.tolist())
    found: list[list[tuple[int, int]]] = [[] for _ in range(num)]
    for record, chosen, rejected in zip(*(part.tolist() for part in pairs), strict=True):
        found[record].append((chosen, rejected))
    return found


def levenshtein(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    if not one or not other:
        return len(one) + len(other)
    replaced = levenshtein(one[1:], other[1:]) + (one[0] != other[0])
    return min(replaced, levenshtein(one[1:], other) + 1, levenshtein(one, other[1:]) + 1)


short_texts = st.lists(st.lists(st.integers(0, 2), max_size=4).map(tuple), max_size=5)


@given(short_texts)
def test_edit_distances_of_every_two(texts):
    ours = edit_distances([np.array(text, np.int32) for text in texts])
    assert ours.dtype == np.int64
    assert ours.tolist() == [levenshtein(one, other) for one, other in combinations(texts, 2)]


def test_token_ids_of_large_vocabularies_are_told_apart():
    """The hash of -1 is that of -2 in Python, and surrogates are no characters: token ids are neither."""
    ids = np.array([0, 1, 55_296, 57_343, 128_000, 1_114_112, 2**31 - 1], np.int64)
    for dtype in (np.int32, np.int64, np.uint32):
        typed = ids.astype(dtype)
        assert edit_distances([typed, typed, np.roll(typed, 1), np.full(7, 9, dtype)]).tolist() == [0, 2, 7, 2, 7, 7]


@given(corpora)
def test_all_pairs(records):
    offsets = Flat(records).offsets
    expected = [
        (i, offsets[i] + a, offsets[i] + b)
        for i, record in enumerate(records)
        for a, b in combinations(range(len(record)), 2)
    ]
    assert list(zip(*(part.tolist() for part in all_pairs(offsets)))) == expected


def brute_force(records: list, score, most: int) -> list[list[tuple[int, int]]]:
    """Ordered pairs of a record with a reward margin above 0 by score, ties by place; else one pair of equals."""
    found = []
    for record in records:
        pairs = [(a, b) for a, b in permutations(range(len(record)), 2) if record[a][0] > record[b][0]]
        pairs.sort(key=lambda pair: (-score(record, *pair), min(pair), max(pair)))
        equals = sorted(combinations(range(len(record)), 2), key=lambda pair: (-score(record, *pair), pair))
        found.append(pairs[:most] or equals[:1])
    return found


@given(corpora, most, st.sampled_from([1.0, 0.1]))
def test_best_by_dcrm(records, most, scale):
    def score(record, a, b):
        margin = np.array([record[a][0] - record[b][0]])
        distance = [levenshtein(tuple(record[a][2]), tuple(record[b][2]))]
        return dcrm(margin, distance, np.array([record[a][1]]), np.array([record[b][1]]), scale)[0]

    flat = Flat(records)
    ours = best_by_dcrm(flat.rewards, flat.logps, flat.distances, flat.offsets, scale, most)
    assert as_lists(ours, len(records)) == brute_force(records, score, most)


@given(corpora, most, st.sampled_from([0.25, 1.0, 2.5]))
def test_best_by_map(records, most, alpha):
    scale = Scale(0.7, 0.3)

    def score(record, a, b):
        margins = np.array([record[a][0] - record[b][0]]), np.array([record[a][1] - record[b][1]])
        return map_score(*margins, scale, alpha)[0]

    flat = Flat(records)
    ours = best_by_map(flat.rewards, flat.logps, flat.offsets, scale, alpha, most)
    assert as_lists(ours, len(records)) == brute_force(records, score, most)


@given(corpora, most)
def test_ranked(records, most):
    expected = []
    for record in records:
        values = [reward for reward, _, _ in record]
        best = values.index(max(values))
        others = sorted((i for i in range(len(values)) if i != best), key=lambda i: (values[i], -i))
        worse = [i for i in others if values[i] < values[best]]
        expected.append([(best, i) for i in (worse or others[:1])[:most]])
    flat = Flat(records)
    assert as_lists(best_against_others(flat.rewards, flat.offsets, most), len(records)) == expected


@given(corpora)
def test_best_sigma(records):
    flat, expected = Flat(records), []
    for record in records:
        values = [reward for reward, _, _ in record]
        best = values.index(max(values))
        aim = Fraction(sum(map(Fraction, values)), len(values))
        aim = float(aim) - 2 * statistics.pstdev(values)
        away = {i: abs(value - aim) for i, value in enumerate(values) if i != best}
        expected.append((best, {i for i in away if away[i] < min(away.values()) + 1e-9}))
    ours = best_sigma(flat.rewards, flat.offsets)
    assert ours.record.tolist() == list(range(len(records)))
    assert ours.chosen.tolist() == [best for best, _ in expected]
    assert all(rejected in nearest for rejected, (_, nearest) in zip(ours.rejected.tolist(), expected))


@given(corpora)
def test_the_first_ranked_pair_is_best_against_worst(records):
    flat = Flat(records)
    ours = best_against_others(flat.rewards, flat.offsets, 1)
    best, worst = best_worst(flat.rewards, flat.offsets)
    assert (ours.chosen.tolist(), ours.rejected.tolist()) == (best.tolist(), worst.tolist())
    assert ours.record.tolist() == list(range(len(records)))


@given(corpora, most)
def test_no_record_is_lost_and_none_has_too_many(records, most):
    flat = Flat(records)
    for ours in (
        best_against_others(flat.rewards, flat.offsets, most),
        best_by_dcrm(flat.rewards, flat.logps, flat.distances, flat.offsets, max_pairs=most),
        best_by_map(flat.rewards, flat.logps, flat.offsets, Scale(1.0, 1.0), max_pairs=most),
    ):
        counts = np.bincount(ours.record, minlength=len(records))
        assert ((counts >= 1) & (counts <= most)).all()
        first = flat.offsets[ours.record]
        assert (flat.rewards[first + ours.chosen] >= flat.rewards[first + ours.rejected]).all()
        assert (ours.chosen != ours.rejected).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    offsets, values, broken = np.array([0, 3]), np.array([1.0, 2.0, 3.0]), np.array([1.0, bad, 3.0])
    with pytest.raises(ValueError, match="rewards"):
        best_against_others(broken, offsets, 1)
    with pytest.raises(ValueError, match="rewards"):
        best_by_map(broken, values, offsets, Scale(1.0, 1.0))
    with pytest.raises(ValueError, match="implicit_rewards"):
        best_by_map(values, broken, offsets, Scale(1.0, 1.0))
    for rewards, logps in ((broken, values), (values, broken)):
        with pytest.raises(ValueError, match=r"reward|logps"):
            best_by_dcrm(rewards, logps, [1, 2, 3], offsets)

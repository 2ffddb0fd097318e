"""Packs by example: what is shared, what is repeated, what is split. tests/property says what always holds."""

import numpy as np

from mapjob.errors import Reason, RowError
from mapjob.scoring.encode import Encoded
from mapjob.scoring.packing import Group, batches, halves, packs, shared_prompts


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def group(prompt: int, *completions: int, first_place: int = 0) -> Group:
    """A group of these lengths."""
    places = list(range(first_place, first_place + len(completions)))
    return Group(np.full(prompt, 1, np.int32), [np.full(n, 2, np.int32) for n in completions], places)


def lengths(pack: list[Group]) -> list[tuple[int, list[int]]]:
    return [(len(part.prompt), [len(completion) for completion in part.completions]) for part in pack]


def test_records_with_one_prompt_are_one_group():
    records = [
        Encoded(ids(1, 2), [ids(3), ids(4)]),
        Encoded(ids(9), [ids(3)]),
        RowError(Reason.OVERLENGTH, "too long"),
        Encoded(ids(1, 2), [ids(4), ids(5), ids(4)]),
    ]
    groups, index = shared_prompts(records)
    assert index == [[0, 1], [2], [], [1, 3, 1]]
    assert [g.completion_ids for g in groups] == [[0, 1, 3], [2]]
    assert [[c.tolist() for c in g.completions] for g in groups] == [[[3], [4], [5]], [[3]]]


def test_the_boundary_tells_completions_apart():
    """The same tokens cut at another place are another completion."""
    groups, index = shared_prompts([Encoded(ids(1), [ids(2, 3)]), Encoded(ids(1, 2), [ids(3)])])
    assert len(groups) == 2
    assert index == [[0], [1]]


def test_nothing_to_score():
    groups, index = shared_prompts([RowError(Reason.OVERLENGTH, "too long")])
    assert (groups, index) == ([], [[]])
    assert packs(groups, 100) == list(batches(groups, 100)) == []


def test_packs_are_filled_best_fit_longest_first():
    groups = [group(10, n - 10, first_place=i) for i, n in enumerate([30, 60, 50, 40, 20])]
    totals = [[part.num_tokens for part in pack] for pack in packs(groups, 100)]
    assert totals == [[60, 40], [50, 30, 20]]


def test_a_group_of_up_to_two_packs_stays_whole():
    """Its prompt is computed once; it is a pack by itself."""
    assert [lengths(pack) for pack in packs([group(10, 30, 80), group(2, 3, first_place=2)], 60)] == [
        [(10, [80, 30])],
        [(2, [3])],
    ]


def test_a_longer_group_is_cut_and_its_prompt_repeated():
    assert [lengths(pack) for pack in packs([group(10, 60, 5, 80, 30)], 60)] == [[(10, [60, 30, 5])], [(10, [80])]]


def test_a_long_prompt_is_not_repeated_for_every_completion():
    """A part may be as long as twice its prompt, so that at least half of what is computed is completions."""
    assert [lengths(pack) for pack in packs([group(100, *7 * [15])], 60)] == [[(100, 6 * [15])], [(100, [15])]]


def test_a_completion_longer_than_two_packs_is_alone():
    assert [lengths(pack) for pack in packs([group(10, 130, 3), group(2, 3, first_place=2)], 60)] == [
        [(10, [130])],
        [(10, [3]), (2, [3])],
    ]


def test_halves():
    first, second, third = group(1, 1, 1, 1), group(1, 1, first_place=3), group(1, 1, first_place=4)
    assert halves([first, second, third]) == ([first], [second, third])
    left, right = halves([first])
    assert [part.completion_ids for part in (*left, *right)] == [[0], [1, 2]]
    assert halves([second]) is None


def test_batches_are_of_like_length():
    """Three rows of 20 tokens fill a budget of 60; the longest comes first, though it alone is beyond the budget."""
    cut = [lengths(batch) for batch in batches([group(10, 10, 60, 9, 8), group(0, 5, first_place=4)], 60)]
    assert cut == [[(10, [60])], [(10, [10]), (10, [9]), (10, [8])], [(0, [5])]]

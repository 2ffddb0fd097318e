"""How any pack lies, against a reconstruction token by token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapjob.scoring.pack_layout import Layout, Reading, layout, pad
from mapjob.scoring.packing import Group

MOST = 12


def group_of(sizes: tuple[int, list[int]]) -> Group:
    prompt, completions = sizes
    return Group(np.zeros(prompt, np.int32), [np.zeros(n, np.int32) for n in completions], [0] * len(completions))


def numbered(pack: list[Group]) -> list[Group]:
    """Every token another id, from 1 on, and every completion another place."""
    ids, places = iter(range(1, 10_000)), iter(range(10_000))
    return [
        Group(
            np.fromiter(ids, np.int32, len(group.prompt)),
            [np.fromiter(ids, np.int32, len(completion)) for completion in group.completions],
            [next(places) for _ in group.completion_ids],
        )
        for group in pack
    ]


sizes = st.tuples(st.integers(0, MOST), st.lists(st.integers(1, MOST), min_size=1, max_size=5))
any_pack = st.lists(sizes.map(group_of), min_size=1, max_size=6).map(numbered)
singles = st.tuples(st.integers(0, MOST), st.integers(1, MOST).map(lambda n: [n]))
any_batch = st.lists(singles.map(group_of), min_size=1, max_size=6).map(numbered)
multiples = st.sampled_from([1, 2, 32, 96])


def sequences(pack: list[Group]) -> dict[int, tuple[list[int], int]]:
    """(token ids of prompt and completion, length of the prompt) by place."""
    return {
        place: ([*group.prompt.tolist(), *completion.tolist()], len(group.prompt))
        for group in pack
        for completion, place in zip(group.completions, group.completion_ids)
    }


def assert_reads(reading: Reading, pack: list[Group]) -> None:
    """The reading finds every completion's tokens, and before each of them the token that predicts it."""
    expected = sequences(pack)
    assert sorted(reading.completion_ids) == sorted(expected)
    ids, predicting, targets = reading.ids_T.tolist(), [], []
    for c, place in enumerate(reading.completion_ids):
        sequence, size = expected[place]
        assert reading.sequence(c).tolist() == sequence
        assert [ids[reading.token(c, position)] for position in range(len(sequence))] == sequence
        predicting += sequence[max(size, 1) - 1 : -1]
        targets += sequence[max(size, 1) :]
        assert reading.num_scored_C[c] == len(sequence) - max(size, 1)
    assert [ids[row] for row in reading.predicting_R] == predicting
    assert reading.targets_R.tolist() == targets


@given(any_pack, multiples)
def test_predicting_rows_and_targets(pack, multiple):
    assert_reads(layout(pack, multiple).reading, pack)


@given(any_pack, multiples)
def test_a_prompt_lies_once(pack, multiple):
    packed = layout(pack, multiple)
    num_tokens = sum(group.num_tokens for group in pack)
    ids = packed.reading.ids_T.tolist()
    assert sorted(ids[:num_tokens]) == list(range(1, num_tokens + 1))
    assert len(ids) == len(packed.positions_T) == -(-num_tokens // multiple) * multiple


@given(any_pack, multiples)
def test_positions_go_on_after_the_prompt(pack, multiple):
    packed = layout(pack, multiple)
    position = dict(zip(packed.reading.ids_T.tolist(), packed.positions_T.tolist()))
    for sequence, _ in sequences(pack).values():
        assert [position[token] for token in sequence] == list(range(len(sequence)))


@given(any_pack, multiples)
def test_segments_see_the_prompt_and_themselves(pack, multiple):
    """Query i of n in a segment stands at key m - n + i of its m keys, which is what lower-right alignment means."""
    packed = layout(pack, multiple)
    seen = seen_by_each(packed)
    for sequence, _ in sequences(pack).values():
        for i, token in enumerate(sequence):
            assert seen[token] == sequence[: i + 1]


def seen_by_each(packed: Layout) -> dict[int, list[int]]:
    """Ids of the tokens that each token sees, by its id."""
    ids, q, k = packed.reading.ids_T, 0, 0
    seen = {}
    assert packed.queries_S.sum() == len(ids)
    assert packed.keys_S.sum() == len(packed.seen_K)
    assert (packed.queries_S > 0).all()
    for num_queries, num_keys in zip(packed.queries_S, packed.keys_S, strict=True):
        keys = ids[packed.seen_K[k : k + num_keys]].tolist()
        for i in range(num_queries):
            seen[int(ids[q + i])] = keys[: num_keys - num_queries + i + 1]
        q, k = q + num_queries, k + num_keys
    return seen


@given(any_batch, multiples)
def test_padded_rows(batch, multiple):
    laid = pad(batch, multiple)
    reading, width = laid.reading, laid.width
    longest = max(sequence.num_tokens for sequence in batch)
    assert width % multiple == 0
    assert longest <= width < longest + multiple
    assert len(reading.ids_T) == width * len(batch)
    assert_reads(reading, batch)
    for row, (sequence, _) in zip(reading.ids_T.reshape(-1, width), sequences(batch).values()):
        assert row.tolist() == sequence + [0] * (width - len(sequence))


def test_an_empty_prompt_has_no_segment():
    packed = layout([Group(np.zeros(0, np.int32), [np.array([7], np.int32), np.array([8, 9], np.int32)], [0, 1])])
    assert packed.queries_S.tolist() == packed.keys_S.tolist() == [1, 2]
    assert packed.reading.num_scored_C.tolist() == [0, 1]
    assert packed.reading.targets_R.tolist() == [9]


@pytest.mark.parametrize("multiple", [1, 32])
def test_what_pads_a_pack_is_seen_by_nobody(multiple):
    packed = layout(numbered([group_of((3, [4]))]), multiple)
    assert packed.queries_S.tolist() == [3, 4, 25][: 2 + (multiple > 1)]
    assert packed.reading.ids_T[7:].tolist() == [0] * (25 if multiple > 1 else 0)

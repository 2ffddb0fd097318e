"""Packs of any records: nothing lost, nothing twice, within the budget, the same for the same records."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mapjob.errors import Reason, RowError
from mapjob.scoring.encode import Encoded
from mapjob.scoring.packing import Group, Pack, batches, halves, packs, shared_prompts

# Few distinct tokens and prompts, so that prompts are shared and completions equal.
tokens = st.integers(0, 1)
completions = st.lists(tokens, min_size=1, max_size=30).map(lambda ids: np.array(ids, np.int32))
prompts = st.sampled_from([0, 1, 2, 3, 9, 25]).map(lambda n: np.arange(n, dtype=np.int32))
encoded = st.builds(Encoded, prompts, st.lists(completions, min_size=1, max_size=6))
records = st.lists(encoded | st.just(RowError(Reason.OVERLENGTH, "too long")), max_size=12)
budgets = st.integers(1, 120)


def ids(*parts: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(part.tolist()) for part in parts)


def placed(parts: Iterable[Group]) -> dict[int, tuple]:
    """(prompt, completion) at each place; a place that is taken twice fails the test."""
    found: dict[int, tuple] = {}
    for part in parts:
        assert len(part.completions) == len(part.completion_ids) > 0
        for completion, place in zip(part.completions, part.completion_ids):
            assert place not in found
            found[place] = ids(part.prompt, completion)
    return found


def flat(cut: Iterable[Pack]) -> list[Group]:
    return [part for pack in cut for part in pack]


def total(pack: Sequence[Group]) -> int:
    return sum(part.num_tokens for part in pack)


@given(records)
def test_places_lead_back_to_the_records(rows):
    groups, index = shared_prompts(rows)
    at = placed(groups)
    assert sorted(at) == list(range(len(at)))
    assert len(set(at.values())) == len(at), "a completion of a prompt has one place"
    assert len({ids(group.prompt) for group in groups}) == len(groups), "a prompt is one group"
    for row, places in zip(rows, index, strict=True):
        expected = [] if isinstance(row, RowError) else [ids(row.prompt, c) for c in row.completions]
        assert [at[place] for place in places] == expected


@given(records, budgets)
def test_each_completion_lies_in_one_pack(rows, budget):
    groups, _ = shared_prompts(rows)
    assert placed(flat(packs(groups, budget))) == placed(groups)


@given(records, budgets)
def test_packs_stay_within_the_budget(rows, budget):
    """Only a part by itself may be longer: a single completion, or a part of two packs or two prompts at most."""
    for pack in packs(shared_prompts(rows)[0], budget):
        if total(pack) > budget:
            (part,) = pack
            assert len(part.completions) == 1 or part.num_tokens <= 2 * max(budget, len(part.prompt))


@given(records, budgets)
def test_a_prompt_is_repeated_only_where_it_must(rows, budget):
    groups, _ = shared_prompts(rows)
    repeats = Counter(ids(part.prompt) for part in flat(packs(groups, budget)))
    for group in groups:
        limit = 2 * max(budget, len(group.prompt))
        fits = group.num_tokens <= limit
        assert (repeats[ids(group.prompt)] == 1) == (fits or len(group.completions) == 1)


@given(records, budgets)
def test_the_same_records_give_the_same_packs(rows, budget):
    def plan() -> list:
        return [
            [(ids(p.prompt, *p.completions), p.completion_ids) for p in k]
            for k in packs(shared_prompts(rows)[0], budget)
        ]

    assert plan() == plan()


@given(records, budgets)
def test_packs_are_no_more_than_next_fit_makes(rows, budget):
    cut = packs(shared_prompts(rows)[0], budget)
    number, room = 0, 0
    for size in sorted((part.num_tokens for part in flat(cut)), reverse=True):
        if size > room:
            number, room = number + 1, budget
        room -= size
    assert len(cut) <= number


@given(records.filter(lambda rows: any(isinstance(row, Encoded) for row in rows)), budgets)
def test_halves_lose_nothing(rows, budget):
    for pack in packs(shared_prompts(rows)[0], budget):
        pieces, singles = [pack], []
        while pieces:
            piece = pieces.pop()
            parts = halves(piece)
            if parts is None:
                assert len(piece) == len(piece[0].completions) == 1
                singles += piece
            else:
                assert placed(flat(parts)) == placed(piece)
                assert all(total(part) < total(piece) for part in parts)
                pieces += parts
        assert placed(singles) == placed(pack)


@given(records, budgets)
def test_batches_stay_within_the_padded_budget(rows, budget):
    groups, _ = shared_prompts(rows)
    cut = list(batches(groups, budget))
    assert placed(flat(cut)) == placed(groups)
    sizes = [[sequence.num_tokens for sequence in batch] for batch in cut]
    assert all(len(batch) == 1 or max(batch) * len(batch) <= budget for batch in sizes)
    in_order = [size for batch in sizes for size in batch]
    assert in_order == sorted(in_order, reverse=True)

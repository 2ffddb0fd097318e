"""What swapping chosen and rejected does: to MAP nothing, to the last bit; to map_signed what the reward model says."""

from dataclasses import replace

import numpy as np
import pytest

from mapjob.config.selection import Selection
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import Ranking
from tests.golden.columns import pairs_of, rank_pairs, synthetic_columns

NUM = 20_000


def with_swapped_columns(pairs: Pairs, swapped: np.ndarray) -> Pairs:
    """The corpus as it would have been scored with these labels the other way round."""

    def other(name: str) -> str:
        return name.replace("chosen", "REJECTED").replace("rejected", "chosen").replace("REJECTED", "rejected")

    columns = {name: np.where(swapped, pairs.columns[other(name)], column) for name, column in pairs.columns.items()}
    return replace(pairs, columns=columns)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return pairs_of(synthetic_columns(NUM))


@pytest.fixture(scope="module")
def swapped() -> np.ndarray:
    return np.random.default_rng(0).random(NUM) < 0.1


@pytest.mark.parametrize("scale", ["zscore", "raw"])
@pytest.mark.parametrize("implicit", ["simpo", "dpo"])
def test_map_does_not_move(pairs, swapped, scale, implicit):
    selection = Selection(scale=scale, implicit=implicit, alpha=2.5)
    before, after = (rank_pairs(p, selection) for p in (pairs, with_swapped_columns(pairs, swapped)))
    assert after.map_score.tobytes() == before.map_score.tobytes()
    assert after.order.tolist() == before.order.tolist()
    assert after.kept.tolist() == before.kept.tolist()
    assert (after.reward_margin != before.reward_margin).sum() == swapped.sum()


def test_map_does_not_move_on_real_columns(scored_pairs):
    for share in (0.1, 1.0):
        swapped = np.random.default_rng(1).random(len(scored_pairs)) < share
        before, after = (
            rank_pairs(p, Selection()) for p in (scored_pairs, with_swapped_columns(scored_pairs, swapped))
        )
        assert after.map_score.tobytes() == before.map_score.tobytes()
        assert after.kept.tolist() == before.kept.tolist()


def test_map_signed_falls_where_the_reward_model_agreed(pairs, swapped):
    before, after = (signed(p) for p in (pairs, with_swapped_columns(pairs, swapped)))
    agreed = before.reward_margin > 0
    assert (after.score[swapped & agreed] < before.score[swapped & agreed]).all()
    assert (after.score[swapped & ~agreed] > before.score[swapped & ~agreed]).all()
    assert after.score[~swapped].tobytes() == before.score[~swapped].tobytes()
    assert (swapped & agreed).sum() > (swapped & ~agreed).sum() > 100


def test_map_signed_falls_by_twice_the_reward_term(pairs, swapped):
    before, after = (signed(p) for p in (pairs, with_swapped_columns(pairs, swapped)))
    expected = 2 * before.reward_margin[swapped] / np.abs(before.reward_margin).std()
    np.testing.assert_allclose((before.score - after.score)[swapped], expected, rtol=1e-9, atol=1e-12)


def signed(pairs: Pairs) -> Ranking:
    return rank_pairs(pairs, Selection(metric="map_signed"))


def test_pairs_swapped_is_the_same_exchange(pairs, swapped):
    """What `on_disagreement: relabel` uses."""
    ours, expected = pairs.swap(swapped), with_swapped_columns(pairs, swapped)
    assert {n: c.tobytes() for n, c in ours.columns.items()} == {n: c.tobytes() for n, c in expected.columns.items()}
    assert ours.chosen.tolist() == swapped.astype(int).tolist()
    assert ours.rejected.tolist() == (~swapped).astype(int).tolist()

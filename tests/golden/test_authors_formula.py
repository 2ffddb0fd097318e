"""The selection against the authors' formula, written out over whole columns of numpy.

z(max - min reward) - alpha * z(|difference of mean log-probabilities|) with the population's mean and deviation, and
of that the top int(ratio * N) (Huang et al. 2025, arXiv 2503.01864). By rule, mapjob departs from it in three places:
exact repeats count once, pairs without a reward margin come last, and ties are settled by pair_id.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mapjob.config.selection import Keep, Selection
from mapjob.errors import Reason
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import Ranking
from tests.golden.columns import pairs_of, rank_pairs, synthetic_columns

ALPHAS = [0.25, 1.0, 2.5]
RATIOS = [0.4, 0.25]

everywhere = pytest.mark.parametrize(("alpha", "ratio"), [(alpha, ratio) for alpha in ALPHAS for ratio in RATIOS])


def authors_score(columns: dict[str, np.ndarray], alpha: float) -> np.ndarray:
    rewards = np.stack([columns["chosen_reward"], columns["rejected_reward"]])
    mean_logps = [columns[f"{side}_logps"] / columns[f"{side}_num_tokens"] for side in ("chosen", "rejected")]
    return z(rewards.max(0) - rewards.min(0)) - alpha * z(np.abs(mean_logps[0] - mean_logps[1]))


def z(values: np.ndarray) -> np.ndarray:
    return (values - np.mean(values)) / np.std(values)


def top(scores: np.ndarray, ratio: float) -> set[int]:
    return set(np.argsort(-scores, kind="stable")[: int(ratio * len(scores))].tolist())


def ours(pairs: Pairs, alpha: float, ratio: float) -> Ranking:
    return rank_pairs(pairs, Selection(alpha=alpha, keep=Keep(ratio=ratio)))


def selected(ranking: Ranking) -> set[int]:
    """Places in the corpus of what is kept."""
    return set(ranking.pairs.position[ranking.kept].tolist())


@everywhere
def test_real_columns(flawed_pairs, scored_pairs, alpha, ratio):
    first = first_of_repeats([flawed_pairs[i] for i in scored_pairs.position])
    columns = {name: values[first] for name, values in scored_pairs.columns.items()}
    assert len(first) >= 600
    assert len(first) < len(scored_pairs), "real repeats are part of this test"
    ranking = ours(scored_pairs, alpha, ratio)
    theirs = top(authors_score(columns, alpha), ratio)
    assert selected(ranking) == {int(scored_pairs.position[first[i]]) for i in theirs}


def first_of_repeats(rows: list[dict[str, Any]]) -> list[int]:
    """Places of the rows whose texts no earlier row has."""
    return sorted({tuple(row.values()): i for i, row in reversed(list(enumerate(rows)))}.values())


@everywhere
def test_synthetic_columns(alpha, ratio):
    columns = synthetic_columns(20_000)
    ranking = ours(pairs_of(columns), alpha, ratio)
    assert len(ranking.kept) == int(ratio * 20_000)
    assert selected(ranking) == top(authors_score(columns, alpha), ratio)


@everywhere
def test_the_whole_order(alpha, ratio):
    columns = synthetic_columns(20_000, seed=1)
    ranking = ours(pairs_of(columns), alpha, ratio)
    scores = authors_score(columns, alpha)
    assert ranking.order.tolist() == np.argsort(-scores).tolist()
    np.testing.assert_allclose(np.diff(ranking.map_score), np.diff(scores), rtol=0, atol=1e-11)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_pairs_without_a_reward_margin_come_last(alpha):
    """The authors select them where the policy's margin is small; nothing else moves."""
    columns = synthetic_columns(20_000)
    nothing = np.random.default_rng(0).random(20_000) < 0.05
    columns["rejected_reward"] = np.where(nothing, columns["chosen_reward"], columns["rejected_reward"])
    scores, ranking = authors_score(columns, alpha), ours(pairs_of(columns), alpha, 0.4)
    authors_own = top(scores, 0.4)
    assert selected(ranking) == top(np.where(nothing, -np.inf, scores), 0.4)
    assert not nothing[list(selected(ranking))].any()
    assert selected(ranking) >= {i for i in authors_own if not nothing[i]}
    if alpha == 2.5:
        assert nothing[list(authors_own)].any(), "the authors' formula selects such pairs here"


@everywhere
def test_repeats_count_once(alpha, ratio):
    """Repeats behind the first occurrence leave the selection, and the statistics under it, as they were."""
    pairs = pairs_of(synthetic_columns(2_000))
    repeated = np.concatenate([np.arange(2_000), np.random.default_rng(0).integers(0, 2_000, 500)])
    with_repeats = replace(pairs.take(repeated), position=np.arange(2_500))
    ranking, plain = ours(with_repeats, alpha, ratio), ours(pairs, alpha, ratio)
    assert selected(ranking) == selected(plain)
    assert ranking.pairs.position.max() < 2_000
    assert len(ranking.pairs.dropped[Reason.DUPLICATE]) == 500
    assert ranking.map_score.tolist() == plain.map_score.tolist()


def test_ties_at_the_cut_go_by_pair_id():
    """Equal numbers under different texts: the authors' sort leaves open which of them are selected."""
    columns = {name: np.repeat(values, 10) for name, values in synthetic_columns(100).items()}
    pairs = pairs_of(columns)
    shuffled = np.random.default_rng(0).permutation(1_000)
    pairs = replace(pairs, pair_id=pa.array([f"pair-{i:06}" for i in shuffled]))
    ranking = ours(pairs, 1.0, 0.255)
    scores = authors_score(columns, 1.0)
    cut = np.sort(scores)[::-1][254]
    above, at_the_cut = np.flatnonzero(scores > cut + 1e-12), np.flatnonzero(np.abs(scores - cut) <= 1e-12)
    assert (len(above), len(at_the_cut)) == (250, 10)
    smallest_ids = at_the_cut[np.argsort(shuffled[at_the_cut])][:5]
    assert selected(ranking) == {*above.tolist(), *smallest_ids.tolist()}

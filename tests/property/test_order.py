"""The global order and its cuts, against sorted() and loops in plain Python."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapjob.config.selection import Keep, Selection
from mapjob.ranking.gather import gather, is_repeat
from mapjob.ranking.order import num_kept_by_threshold, num_kept_by_tokens, rank_order, within_cap
from mapjob.ranking.pairing import Completions, best_worst
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import Ranking, rank_pairs

# Few distinct values, so that ties are the rule; both zeros; neighbours that differ by one ulp.
scores = st.sampled_from([-0.0, 0.0, 1.0, -1.0, 1.0000000000000002, 1e300, -1e300, 5e-324]) | st.floats(-2, 2)
ids = st.sampled_from(["", "a", "b", "B", "aa", "10", "9", "é", "🙂", "\uffff"]) | st.text(max_size=3)
scored_rows = st.lists(st.tuples(scores, ids, st.booleans()), max_size=40)


def order_of(rows: list, chunks: int = 1) -> list[int]:
    values, names, no_margin = (list(column) for column in zip(*rows)) if rows else ([], [], [])
    edges = np.linspace(0, len(names), chunks + 1).astype(int)
    pair_ids = pa.chunked_array([pa.array(names[a:b], pa.string()) for a, b in pairwise(edges)])
    ids = lambda index: pair_ids.take(pa.array(index))  # noqa: E731
    return rank_order(np.array(values, float), ids, np.array(no_margin, bool)).tolist()


def brute_force_order(rows: list) -> list[int]:
    return sorted(range(len(rows)), key=lambda i: (rows[i][2], -rows[i][0], rows[i][1], i))


@given(scored_rows, st.integers(1, 3))
def test_order_is_margin_then_score_then_id_then_position(rows, chunks):
    assert order_of(rows, chunks) == brute_force_order(rows)


@given(scored_rows)
def test_only_pairs_that_tie_are_asked_for_their_id(rows):
    keys = Counter((row[2], row[0] + 0.0) for row in rows)
    asked = []

    def pair_ids(index: np.ndarray) -> pa.Array:
        asked.append(index.tolist())
        return pa.array([rows[i][1] for i in index], pa.string())

    order = rank_order(np.array([row[0] for row in rows]), pair_ids, np.array([row[2] for row in rows], bool))
    assert order.tolist() == brute_force_order(rows)
    tied = [i for i, row in enumerate(rows) if keys[row[2], row[0] + 0.0] > 1]
    assert asked == ([tied] if tied else [])


@given(scored_rows.filter(bool), st.randoms(use_true_random=False))
def test_the_ranked_rows_do_not_depend_on_corpus_order(rows, order):
    shuffled = order.sample(rows, len(rows))
    ranked = [(row[0] + 0.0, *row[1:]) for row in (rows[i] for i in order_of(rows))]
    assert ranked == [(row[0] + 0.0, *row[1:]) for row in (shuffled[i] for i in order_of(shuffled))]


@given(scored_rows.filter(bool))
def test_order_leaves_its_input_as_it_was(rows):
    values = np.array([row[0] for row in rows])
    before, ids = values.copy(), pa.array([row[1] for row in rows])
    rank_order(values, lambda index: ids.take(pa.array(index)), np.array([row[2] for row in rows]))
    assert values.tobytes() == before.tobytes()


@given(scored_rows.filter(bool), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_a_score_that_is_not_finite_is_refused(rows, bad, data):
    place = data.draw(st.integers(0, len(rows) - 1))
    rows = [(bad if i == place else row[0], *row[1:]) for i, row in enumerate(rows)]
    with pytest.raises(ValueError, match="finite"):
        order_of(rows)


# Cuts


def pairs_of(rows: list[dict]) -> Pairs:
    """Pairs whose |reward margin| is `score` (0: no margin), all different in content."""
    column = {name: np.array([row[name] for row in rows], float) for name in ("score", "chosen", "rejected")}
    num = len(rows)
    columns = {"chosen_reward": column["score"], "rejected_reward": np.zeros(num)}
    columns |= {"chosen_logps": -np.arange(1.0, num + 1), "rejected_logps": -np.ones(num)}
    columns |= {"chosen_num_tokens": column["chosen"], "rejected_num_tokens": column["rejected"]}
    content = np.stack([np.arange(num), np.zeros(num)], axis=1).astype(np.uint64)
    prompt = np.array([[row["prompt"], 0] for row in rows], np.uint64).reshape(-1, 2)
    zero, one = np.zeros(num, np.int64), np.ones(num, np.int64)
    names = pa.array([row["id"] for row in rows], pa.string())
    return Pairs(np.arange(num), zero, names, content, prompt, zero, one, columns)


def ranked(rows: list[dict], keep: dict, **more) -> Ranking:
    selection = Selection(metric="explicit", scale="raw", keep=Keep(**keep), **more)
    pairs = pairs_of(rows)
    return rank_pairs(gather([pairs], len(pairs), selection), selection, lambda at: pairs.pair_id.take(pa.array(at)))


pair_rows = st.lists(
    st.fixed_dictionaries(
        {
            "score": st.sampled_from([0.0, 0.5, 1.0, 2.0]) | st.floats(0, 4),
            "id": ids,
            "chosen": st.integers(1, 30),
            "rejected": st.integers(1, 30),
            "prompt": st.integers(0, 3),
        }
    ),
    min_size=1,
    max_size=30,
)


def brute_force_ranking(rows: list[dict]) -> list[int]:
    return sorted(range(len(rows)), key=lambda i: (rows[i]["score"] == 0, -rows[i]["score"], rows[i]["id"], i))


@given(pair_rows, st.integers(0, 40))
def test_keep_count(rows, count):
    assert ranked(rows, {"count": count}).kept.tolist() == brute_force_ranking(rows)[:count]


@given(pair_rows, st.floats(0, 1))
def test_keep_ratio_is_the_int_of_ratio_times_ranked(rows, ratio):
    assert ranked(rows, {"ratio": ratio}).kept.tolist() == brute_force_ranking(rows)[: int(ratio * len(rows))]


@pytest.mark.parametrize(
    ("ratio", "num", "kept"), [(0.0, 9, 0), (1.0, 9, 9), (0.4, 9, 3), (0.29, 100, 28), (0.4, 1, 0)]
)
def test_keep_ratio_by_example(ratio, num, kept):
    """0.29 * 100 is 28.999999999999996 in float64: int() of it is what methods.md asks for."""
    rows = [{"score": i, "id": str(i), "chosen": 1, "rejected": 1, "prompt": 0} for i in range(num)]
    assert len(ranked(rows, {"ratio": ratio}).kept) == kept


@given(pair_rows, st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 5.0]) | st.floats(0, 4))
def test_keep_threshold(rows, threshold):
    expected = [i for i in brute_force_ranking(rows) if rows[i]["score"] >= threshold and rows[i]["score"] != 0]
    assert ranked(rows, {"threshold": threshold}).kept.tolist() == expected


@given(pair_rows, st.integers(0, 900))
def test_keep_tokens(rows, budget):
    expected, left = [], budget
    for i in brute_force_ranking(rows):
        left -= rows[i]["chosen"] + rows[i]["rejected"]
        if left < 0:
            break
        expected.append(i)
    assert ranked(rows, {"tokens": budget}).kept.tolist() == expected


@given(pair_rows, st.integers(1, 4), st.integers(0, 40))
def test_per_prompt_thins_before_the_cut(rows, cap, count):
    seen, expected = Counter(), []
    for i in brute_force_ranking(rows):
        seen[rows[i]["prompt"]] += 1
        if seen[rows[i]["prompt"]] <= cap:
            expected.append(i)
    assert ranked(rows, {"count": count}, per_prompt=cap).kept.tolist() == expected[:count]


@given(pair_rows, st.integers(0, 40))
def test_rank_counts_from_one_and_the_cut_off_is_the_last_kept_score(rows, count):
    ranking = ranked(rows, {"count": count})
    assert ranking.rank[brute_force_ranking(rows)].tolist() == list(range(1, len(rows) + 1))
    kept = brute_force_ranking(rows)[:count]
    assert ranking.cut_off == (rows[kept[-1]]["score"] if kept else None)


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(0, 100))
def test_tokens_of_the_longest_prefix_fit(tokens, budget):
    fitting = max(k for k in range(len(tokens) + 1) if sum(tokens[:k]) <= budget)
    assert num_kept_by_tokens(np.array(tokens, np.int64), budget) == fitting


def test_threshold_takes_the_score_that_equals_it():
    kept = num_kept_by_threshold(np.array([2.0, 1.0, 0.5, 9.0]), np.array([False, False, False, True]), 1.0)
    assert kept == 2


# Caps, repeats, pairing


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 5))
def test_within_cap(keys, cap):
    expected = [keys[:i].count(key) < cap for i, key in enumerate(keys)]
    assert within_cap(np.array(keys, np.int64), cap).tolist() == expected


@given(st.lists(st.tuples(*[st.integers(0, 2) | st.just(2**64 - 1)] * 2), max_size=40))
def test_is_repeat(keys):
    seen, expected = set(), []
    for key in keys:
        expected.append(key in seen)
        seen.add(key)
    assert is_repeat(np.array(keys, np.uint64).reshape(-1, 2)).tolist() == expected


def test_different_keys_whose_mixture_is_equal_are_no_repeats():
    mixer = 0x9E3779B97F4A7C15
    assert not is_repeat(np.array([[7, 0], [7 ^ mixer, 1], [7 ^ mixer, 2]], np.uint64)).any()
    assert is_repeat(np.array([[7, 0], [7 ^ mixer, 1], [7, 0]], np.uint64)).tolist() == [False, False, True]


rewards_by_record = st.lists(
    st.lists(st.sampled_from([-0.0, 0.0, 1.0, -1.0]) | st.floats(-2, 2), min_size=2, max_size=6), max_size=12
)


@given(rewards_by_record)
def test_best_worst(records):
    offsets = np.cumsum([0, *map(len, records)])
    flat = np.array([reward for rewards in records for reward in rewards], float)
    best, worst = best_worst(flat, offsets)
    # First of the best; among equals the last of the worst, so that the two sides are never one completion.
    assert best.tolist() == [rewards.index(max(rewards)) for rewards in records]
    assert worst.tolist() == [len(rewards) - 1 - rewards[::-1].index(min(rewards)) for rewards in records]
    assert (best != worst).all()
    assert flat[offsets[:-1] + best].tolist() == [max(rewards) for rewards in records]
    assert flat[offsets[:-1] + worst].tolist() == [min(rewards) for rewards in records]


def test_labelled_pairs_are_the_first_two_completions():
    pairs = Completions(np.array([0, 2, 4, 7]), {}).by_label()
    assert [column.tolist() for column in pairs] == [[0, 1, 2], [0, 0, 0], [1, 1, 1]]

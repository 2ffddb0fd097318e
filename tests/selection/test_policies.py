"""Caps, near duplicates, quotas and held-out prompts against plain loops over the ranking."""

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjob.config.load import parse_config
from mapjob.config.selection import Keep, Selection
from mapjob.errors import ConfigError
from mapjob.ranking.gather import gather, is_held_out
from mapjob.ranking.near_duplicates import NUM_HASHES, signature, unlike_better
from mapjob.ranking.order import split
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import Ranking, rank_pairs

GROUPS = ["a", "b", "c", None]
row = st.fixed_dictionaries(
    {
        "score": st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 4),
        "group": st.sampled_from(GROUPS),
        "prompt": st.integers(0, 4),
        "kind": st.integers(0, 5),  # rows of one kind are near duplicates
        "tokens": st.integers(1, 20),
    }
)
rows_of = st.lists(row, min_size=1, max_size=40)


def pairs_of(rows: list[dict[str, Any]]) -> Pairs:
    num = len(rows)
    score, tokens = (np.array([row[name] for row in rows], float) for name in ("score", "tokens"))
    columns = {"chosen_reward": score, "rejected_reward": np.zeros(num)}
    columns |= {"chosen_logps": -np.arange(1.0, num + 1), "rejected_logps": -np.ones(num)}
    columns |= {"chosen_num_tokens": tokens, "rejected_num_tokens": np.ones(num)}
    kinds = np.random.default_rng(0).integers(0, 2**32, (6, NUM_HASHES), dtype=np.uint32)
    return Pairs(
        position=np.arange(num),
        pair_in_row=np.zeros(num, np.int64),
        pair_id=pa.array([f"{i:03}" for i in range(num)]),
        content_key=np.stack([np.arange(num)] * 2, 1).astype(np.uint64),
        prompt_key=np.array([[row["prompt"], 0] for row in rows], np.uint64),
        chosen=np.zeros(num, np.int64),
        rejected=np.ones(num, np.int64),
        columns=columns,
        group=pa.array([row["group"] for row in rows], pa.string()),
        signature=kinds[[row["kind"] for row in rows]],
    )


def ranked(rows: list[dict[str, Any]], keep: dict[str, Any], **more: Any) -> Ranking:
    selection = Selection(metric="explicit", scale="raw", keep=Keep(**keep), **more)
    pairs = pairs_of(rows)
    units = [pairs.take(np.arange(at, min(at + 7, len(rows)))) for at in range(0, len(rows), 7)]
    held = gather(units, len(rows), selection)
    return rank_pairs(held, selection, lambda at: pairs.pair_id.take(pa.array(at)))


def in_order(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(range(len(rows)), key=lambda i: (rows[i]["score"] == 0, -rows[i]["score"], i))


QUOTAS = {"a": 0.5, "b": 0.25}


@given(rows_of, st.integers(0, 30))
def test_every_group_has_its_share(rows, count):
    ranking = ranked(rows, {"count": count}, quotas=QUOTAS)
    sizes = dict(zip(("a", "b", "others"), split([0.5, 0.25, 0.25], count)))
    assert sum(sizes.values()) == count
    expected = []
    for i in in_order(rows):
        group = rows[i]["group"] if rows[i]["group"] in QUOTAS else "others"
        if sizes[group]:
            sizes[group] -= 1
            expected.append(i)
    assert ranking.kept.tolist() == expected
    short = {f"the quota of {name}": left for name, left in sizes.items() if name != "others" and left}
    short |= {"the groups without a quota": sizes["others"]} if sizes["others"] else {}
    assert {text.split(":")[0] for text in ranking.warnings} == set(short)
    ranks = ranking.kept_rank.tolist()
    assert sum(ranking.cut.passed_over.values()) == (max(ranks) - len(ranks) if ranks else 0)


@given(rows_of, st.integers(0, 200))
def test_quotas_of_a_token_budget(rows, budget):
    ranking = ranked(rows, {"tokens": budget}, quotas=QUOTAS)
    sizes = dict(zip(("a", "b", "others"), split([0.5, 0.25, 0.25], budget)))
    full, expected = set(), []
    for i in in_order(rows):
        group = rows[i]["group"] if rows[i]["group"] in QUOTAS else "others"
        sizes[group] -= rows[i]["tokens"] + 1
        if sizes[group] < 0:
            full.add(group)
        if group not in full:
            expected.append(i)
    assert ranking.kept.tolist() == expected


@pytest.mark.parametrize("keep", [{"count": 3}, {"tokens": 15}])
def test_a_quota_of_0_keeps_no_pair_of_the_group_and_counts_those_passed_over(keep):
    rows = [{"score": 9.0 - i, "group": "ab"[i % 2], "prompt": i, "tokens": 4, "kind": 0} for i in range(8)]
    ranking = ranked(rows, keep, quotas={"a": 0, "c": 0})
    assert {rows[i]["group"] for i in ranking.kept} == {"b"}
    assert len(ranking.kept) == 3
    assert ranking.cut.passed_over == {"quotas": 3}
    assert ranking.warnings == ("the quota of c: no ranked pair is of this group",)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any), st.integers(0, 1000))
def test_a_whole_is_split_to_the_nearest_numbers(weights, whole):
    shares = [weight / sum(weights) for weight in weights]
    parts = split(shares, whole)
    assert sum(parts) == whole
    assert all(abs(part - share * whole) < 1 for part, share in zip(parts, shares))


@given(rows_of, st.integers(0, 40))
def test_of_near_duplicates_the_best_is_kept(rows, count):
    ranking = ranked(rows, {"count": count}, near_duplicates=0.9)
    expected, kinds = [], set()
    for i in in_order(rows):
        if len(expected) < count and rows[i]["kind"] not in kinds:
            kinds.add(rows[i]["kind"])
            expected.append(i)
    assert ranking.kept.tolist() == expected
    ranks = ranking.kept_rank.tolist()
    assert ranking.cut.passed_over == {"near_duplicates": max(ranks) - len(ranks) if ranks else 0}


@given(rows_of, st.integers(1, 3), st.floats(0, 1))
def test_a_cap_and_near_duplicates_together(rows, cap, ratio):
    ranking = ranked(rows, {"ratio": ratio}, near_duplicates=0.9, per_prompt=cap)
    expected, kinds, prompts = [], set(), Counter()
    for i in in_order(rows):
        prompts[rows[i]["prompt"]] += 1
        if prompts[rows[i]["prompt"]] > cap or len(expected) == int(ratio * len(rows)) or rows[i]["kind"] in kinds:
            continue
        kinds.add(rows[i]["kind"])
        expected.append(i)
    assert ranking.kept.tolist() == expected


@given(rows_of, st.floats(0.05, 0.95), st.integers(0, 5))
def test_no_prompt_is_on_both_sides_and_none_is_lost(rows, share, seed):
    keys = np.array([[row["prompt"], 0] for row in rows], np.uint64)
    if is_held_out(keys, share, seed).all():
        with pytest.raises(ConfigError, match="no pair is left"):
            ranked(rows, {"ratio": 1.0}, held_out=share, seed=seed)
        return
    ranking = ranked(rows, {"ratio": 1.0}, held_out=share, seed=seed)
    inside, apart = ranking.pairs.position.tolist(), ranking.held_out.position.tolist()
    assert sorted(inside + apart) == list(range(len(rows)))
    assert not {rows[i]["prompt"] for i in inside} & {rows[i]["prompt"] for i in apart}
    # Statistics are over the ranked pairs alone.
    assert ranking.moments["reward"].count == len(inside)


def test_held_out_is_a_share_of_the_prompts_and_goes_by_the_prompt_alone():
    keys = np.random.default_rng(0).integers(0, 2**64, (20_000, 2), dtype=np.uint64)
    apart = is_held_out(keys, 0.1, 0)
    assert abs(apart.mean() - 0.1) < 0.01
    assert (is_held_out(keys[::-3], 0.1, 0) == apart[::-3]).all()
    other = is_held_out(keys, 0.1, 1)
    assert abs((apart & other).mean() - 0.01) < 0.004, "another seed holds others out"
    assert (is_held_out(keys, 0.2, 0) >= apart).all(), "a larger share holds out all of the smaller one"


WORDS = [f"word{i}" for i in range(2_000)]


def text_of(rng: np.random.Generator, num: int = 150) -> list[str]:
    return rng.choice(WORDS, num).tolist()


def jaccard(one: list[str], other: list[str]) -> float:
    a, b = ({tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (one, other))
    return len(a & b) / len(a | b)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60))
def test_signatures_estimate_the_overlap_of_five_word_shingles(seed, changed):
    rng = np.random.default_rng(seed)
    one = text_of(rng)
    other = [*one[: 150 - changed], *text_of(rng, changed)] if changed else list(one)
    estimate = float(np.mean(signature(" ".join(one)) == signature(" ".join(other))))
    assert estimate == pytest.approx(jaccard(one, other), abs=0.2)  # over four standard errors


def test_near_duplicates_among_many():
    """600 texts of which 200 are another with a word changed: every one of those falls, and nothing else."""
    rng = np.random.default_rng(1)
    texts = [text_of(rng) for _ in range(400)]
    copies = [[*text[:-1], "other"] for text in texts[:200]]
    signatures = np.stack([signature(" ".join(text)) for text in [*texts, *copies]])
    assert min(jaccard(*pair) for pair in zip(texts, copies)) > 0.97
    assert max(jaccard(*pair) for pair in combinations(texts[:40], 2)) < 0.1
    kept = unlike_better(signatures, np.arange(600), 0.8)
    assert kept.tolist() == [True] * 400 + [False] * 200


def test_short_texts_have_signatures_too():
    assert (signature("Yes") == signature("yes!")).all()
    assert (signature("") == signature("")).all()
    assert (signature("yes") != signature("no")).any()


def test_pairs_of_one_row_are_no_near_duplicates_of_each_other():
    same = np.stack([signature("a text")] * 4)
    assert unlike_better(same, np.array([5, 5, 7, 5]), 0.8).tolist() == [True, True, False, True]


def tree(**selection: Any) -> dict[str, Any]:
    models = {"policy": {"path": "p"}, "reward": {"path": "r"}}
    return {"input": {"path": "in"}, "output": {"path": "out"}, "models": models, "selection": selection}


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        ({"quotas": {"a": 0.5}}, "input.columns.group"),
        ({"exclude": {"groups": ["a"]}}, "input.columns.group"),
        ({"quotas": {"a": 0.7, "b": 0.4}}, "1.1"),
        ({"quotas": {"a": 0.5}, "keep": {"threshold": 1}}, "threshold"),
        ({"pairs_per_record": 2}, "best_worst"),
        ({"held_out": 1.0}, "held_out"),
        ({"near_duplicates": 1.5}, "near_duplicates"),
        ({"signals": {"reward_goals": {}, "repo_loss": {}}}, "reward_goals"),
        ({"signals": {"bpo_margin": {}}}, "bpo_margin"),
        ({"signals": {"magic": {}}}, "unknown key"),
        ({"metrics": ["bees", "map"]}, "models.reference (bees)"),
    ],
)
def test_what_cannot_be_is_refused_by_name(selection, told):
    with pytest.raises(ConfigError) as caught:
        parse_config(tree(**selection))
    assert told in str(caught.value)

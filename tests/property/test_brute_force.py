"""The whole ranking of a corpus, from pairs in units to what is kept, against plain Python that holds every row."""

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mapjob import collective
from mapjob.collective import Local
from mapjob.config.selection import Selection
from mapjob.errors import ConfigError, Reason
from mapjob.ranking.gather import RULE_OF, SETTLED, collect, drop, gather
from mapjob.ranking.order import PairIds
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import Ranking, rank_pairs

few = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0])
rows = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from(["a", "b", "B", "é", ""]),
            "content": st.integers(0, 6),
            "prompt": st.integers(0, 3),
            "group": st.sampled_from(["web", "books", None]),
            "decision": st.sampled_from([0, 0, 0, SETTLED, RULE_OF[Reason.EXCLUDED_ID]]),
            "chosen_reward": few | st.floats(-2, 2),
            "rejected_reward": few,
            "chosen_logps": few | st.floats(-9, 0),
            "rejected_logps": few,
            "chosen_num_tokens": st.sampled_from([1.0, 2.0, 4.0]),
            "rejected_num_tokens": st.integers(1, 9).map(float),
            "margins_of_models": st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=3, max_size=3),
        }
    ),
    min_size=1,
    max_size=25,
)
selections = st.fixed_dictionaries(
    {
        "metric": st.sampled_from(["map", "map_signed", "explicit", "implicit_small", "implicit_large"]),
        "scale": st.sampled_from(["zscore", "raw"]),
        "alpha": st.sampled_from([0.0, 1.0, 2.5]),
        "decided": st.booleans(),
        "on_disagreement": st.sampled_from(["keep", "drop", "relabel"]),
        "votes": st.sampled_from([None, "majority", "all"]),
        "per_prompt": st.sampled_from([None, 1, 2]),
        "quotas": st.sampled_from([None, {"web": 0.5}, {"web": 0.3, "books": 0.7}, {"web": 0}, {"web": 0, "books": 0}]),
        "keep": st.sampled_from([{"ratio": 0.4}, {"ratio": 1.0}, {"count": 3}, {"tokens": 12}, {"threshold": 0.1}])
        | st.sampled_from([{"between": (0, 0.5)}, {"between": (0.2, 0.6)}, {"between": (0.6, 1)}]),
    }
)


def deviation(values: list[float]) -> float:
    if len(set(values)) == 1:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def is_contradicted(row: dict[str, Any], votes: str | None) -> bool:
    against, confirming = (sum(sign * m > 0 for m in row["margins_of_models"]) for sign in (-1, 1))
    by_votes = {"majority": against > confirming, "all": against > 0 == confirming}
    return row["chosen_reward"] < row["rejected_reward"] if votes is None else by_votes[votes]


def rank_by_force(rows: list[dict[str, Any]], s: Selection) -> tuple[list[int], list[int], list[float]]:
    """(numbers of the ranked pairs, best first; those of the kept ones; by how much both margins spread)."""
    ranked, seen = {}, set()
    for number, row in enumerate(rows):
        if row["decision"] > 0:
            continue
        sides, falls = ["chosen", "rejected"], row["decision"] == 0 and is_contradicted(row, s.votes)
        if falls and s.on_disagreement == "relabel":
            sides.reverse()
        reward, logps, tokens = (
            [row[f"{side}_{name}"] for side in sides] for name in ("reward", "logps", "num_tokens")
        )
        h, d = reward[0] - reward[1], logps[0] / tokens[0] - logps[1] / tokens[1]
        if row["content"] not in seen and not (falls and s.on_disagreement == "drop"):
            ranked[number] = (h, d, int(sum(tokens)))
        seen.add(row["content"])
    by_reward, by_policy = ([abs(pair[side]) for pair in ranked.values()] for side in (0, 1))
    spread = [deviation(by_reward), deviation(by_policy)] if s.scale == "zscore" and ranked else [1.0, 1 / s.beta]
    r, i = (1 / sigma if sigma else 0.0 for sigma in spread)
    values = {
        "map": lambda h, d: r * abs(h) - s.alpha * i * abs(d),
        "map_signed": lambda h, d: r * h - s.alpha * i * abs(d),
        "explicit": lambda h, d: abs(h),
        "implicit_small": lambda h, d: -abs(d),
        "implicit_large": lambda h, d: abs(d),
    }
    score = {number: values[s.metric](h, d) for number, (h, d, _) in ranked.items()}
    order = sorted(ranked, key=lambda n: (ranked[n][0] == 0, -score[n], rows[n]["id"], n))

    keep, capped, of_prompt = s.keep, [], {}
    first, last = keep.between or (0, 1)
    for number in order[int(first * len(order)) : int(last * len(order))]:
        prompt = rows[number]["prompt"]
        of_prompt[prompt] = of_prompt.get(prompt, 0) + 1
        if s.per_prompt is None or of_prompt[prompt] <= s.per_prompt:
            capped.append(number)
    if keep.between is not None:
        return order, capped, spread
    if keep.threshold is not None:
        return order, [n for n in capped if ranked[n][0] != 0 and score[n] >= keep.threshold], spread
    whole = keep.count if keep.count is not None else keep.tokens
    whole = int(keep.ratio * len(order)) if whole is None else whole
    if s.quotas is None:
        return order, fill(capped, whole, keep.tokens is not None, ranked), spread
    shares = {**s.quotas, None: max(0.0, 1 - sum(s.quotas.values()))}
    kept: list[int] = []
    for name, size in zip(shares, largest_remainder(list(shares.values()), whole)):
        members = [n for n in capped if (rows[n]["group"] if rows[n]["group"] in s.quotas else None) == name]
        kept += fill(members, size, keep.tokens is not None, ranked)
    return order, sorted(kept, key=order.index), spread


def fill(candidates: list[int], size: int, by_tokens: bool, ranked: dict[int, tuple]) -> list[int]:
    if not by_tokens:
        return candidates[:size]
    spent = 0
    for index, number in enumerate(candidates):
        spent += ranked[number][2]
        if spent > size:
            return candidates[:index]
    return candidates


def largest_remainder(shares: list[float], whole: int) -> list[int]:
    exact = [share * whole for share in shares]
    parts = [int(value + 1e-9) for value in exact]
    while sum(parts) < round(sum(exact)):
        index = max(range(len(parts)), key=lambda i: (exact[i] - parts[i], -i))
        parts[index] += 1
    return parts


def pairs_of(rows: list[dict[str, Any]], first: int, decided: bool) -> Pairs:
    num = len(rows)
    columns = {
        f"{side}_{name}": np.array([row[f"{side}_{name}"] for row in rows], float)
        for side in ("chosen", "rejected")
        for name in ("reward", "logps", "num_tokens")
    }
    for model in range(3):
        columns[f"chosen_reward.{model}"] = np.array([row["margins_of_models"][model] for row in rows], float)
        columns[f"rejected_reward.{model}"] = np.zeros(num)
    keys = {name: np.array([row[name] for row in rows], np.uint64) for name in ("content", "prompt")}
    return Pairs(
        position=np.arange(first, first + num),
        pair_in_row=np.zeros(num, np.int64),
        pair_id=pa.array([row["id"] for row in rows], pa.string()),
        # The two sides of a pair are different, as they are in a corpus.
        content_key=np.stack([keys["content"], keys["content"] + np.uint64(100)], axis=1),
        prompt_key=np.stack([keys["prompt"], keys["prompt"]], axis=1),
        chosen=np.zeros(num, np.int64),
        rejected=np.ones(num, np.int64),
        columns=columns,
        group=pa.array([row["group"] for row in rows], pa.string()),
        decision=np.array([row["decision"] for row in rows], np.int8) if decided else None,
    )


@settings(max_examples=1000, suppress_health_check=[HealthCheck.filter_too_much])
@given(rows, selections, st.lists(st.integers(0, 25), max_size=4), st.sampled_from([1, 8, 10**6]))
def test_order_and_selection_are_those_of_plain_python_however_the_corpus_is_cut(rows, tree, cuts, least_bytes):
    assume(not (tree["quotas"] and {"threshold", "between"} & tree["keep"].keys()))
    assume(not (tree["votes"] and tree["on_disagreement"] == "keep"))
    if not (decided := tree.pop("decided")):
        rows = [{**row, "decision": 0} for row in rows]
    selection = Selection(**tree)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    units = [pairs_of(rows[a:b], a, decided) for a, b in pairwise(edges)]
    if selection.on_disagreement == "relabel":
        units = [unit.swap(unit.contradicted(selection.votes)) for unit in units]
    ids = pa.array([row["id"] for row in rows], pa.string())
    pairs = gather(units, len(rows), selection)
    order, kept, spread = rank_by_force(rows, selection)
    assert sorted(order) == pairs.position.tolist()
    rank = partial(rank_pairs, pairs, selection, lambda positions: ids.take(pa.array(positions)))
    if not order or spread == [0.0, 0.0]:
        with pytest.raises(ConfigError, match=r"no pair is left|the same two margins"):
            rank()
        return
    ranking = rank()
    assert pairs.position[ranking.order].tolist() == order
    assert pairs.position[ranking.kept].tolist() == kept
    check_pieces(units, selection, lambda positions: ids.take(pa.array(positions)), ranking, least_bytes)


def check_pieces(units: list[Pairs], selection: Selection, pair_ids: PairIds, whole: Ranking, least_bytes: int) -> None:
    """Units as pieces of their own give the same ranks, scores, counts and rows of the selection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collective, "LEAST_BYTES", least_bytes)  # which decides among how many pieces work is divided
        gathered = [collect([unit], len(unit), selection) for unit in units]
        pieces = Local().run(drop, [gathered], selection)
        rankings = Local().run(rank_pairs, [pieces], selection, pair_ids)
        cut_offs = Local().run(lambda ranking: ranking.cut_off, [rankings])
    assert np.concatenate([ranking.pairs.position for ranking in rankings]).tolist() == whole.pairs.position.tolist()
    for name in ("rank", "score", "map_score"):
        assert (
            np.concatenate([getattr(ranking, name) for ranking in rankings]).tolist() == getattr(whole, name).tolist()
        )
    rows = {
        row: (int(position), int(rank))
        for ranking in rankings
        for row, position, rank in zip(
            ranking.picked.output_rows if len(rankings) > 1 else range(len(whole.kept)),
            ranking.pairs.position[ranking.kept],
            ranking.kept_rank,
        )
    }
    assert [rows[row] for row in sorted(rows)] == [
        *zip(whole.pairs.position[whole.kept].tolist(), whole.kept_rank.tolist())
    ]
    assert sorted(rows) == [*range(len(rows))]
    for ranking, cut_off in zip(rankings, cut_offs):
        assert (ranking.cut.passed_over, ranking.warnings) == (whole.cut.passed_over, whole.warnings)
        assert (ranking.scale, ranking.moments, cut_off) == (whole.scale, whole.moments, whole.cut_off)

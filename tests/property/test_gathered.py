"""What ranking keeps of a corpus, against plain loops: the same however the corpus is cut into units."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from mapjob.config.selection import Keep, Selection
from mapjob.errors import Reason
from mapjob.ranking.gather import gather
from mapjob.ranking.pairs import Pairs

words = st.integers(0, 2) | st.sampled_from([1 << 60, 15 << 60, 2**64 - 1])  # keys that begin alike and otherwise
rewards = st.sampled_from([-1.0, 0.0, 0.5]) | st.floats(-2, 2)
tokens = st.integers(1, 9)
row = st.fixed_dictionaries(
    {
        "content": st.tuples(words, words),
        "prompt": st.tuples(words, words),
        "chosen_reward": rewards,
        "rejected_reward": rewards,
        "chosen_logps": st.floats(-9, 0),
        "rejected_logps": st.floats(-9, 0),
        "chosen_num_tokens": tokens,
        "rejected_num_tokens": tokens,
        "refused_before": st.integers(0, 2),  # rows of the corpus between the pair before and this one
    }
)
COLUMNS = [f"{side}_{name}" for side in ("chosen", "rejected") for name in ("reward", "logps", "num_tokens")]


def pairs_of(rows: list[dict], positions: list[int]) -> Pairs:
    num = len(rows)
    keys = {name: np.array([row[name] for row in rows], np.uint64).reshape(-1, 2) for name in ("content", "prompt")}
    columns = {name: np.array([row[name] for row in rows], float) for name in COLUMNS}
    ids = pa.array([f"id {position}" for position in positions], pa.string())
    sides = np.zeros(num, np.int64), np.ones(num, np.int64)
    return Pairs(
        np.array(positions, np.int64), np.zeros(num, np.int64), ids, keys["content"], keys["prompt"], *sides, columns
    )


@given(
    st.lists(row, max_size=30),
    st.lists(st.integers(0, 30), max_size=5),
    st.sampled_from(["keep", "drop"]),
    st.booleans(),
    st.booleans(),
)
def test_repeats_and_disagreements_fall_and_the_rest_is_kept_as_it_is(rows, cuts, on_disagreement, by_tokens, capped):
    positions = (np.cumsum([row["refused_before"] + 1 for row in rows], dtype=np.int64) - 1).tolist()
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    units = [pairs_of(rows[a:b], positions[a:b]) for a, b in pairwise(edges)]
    keep = Keep(tokens=9) if by_tokens else Keep(ratio=0.4)
    selection = Selection(on_disagreement=on_disagreement, keep=keep, per_prompt=1 if capped else None)
    ranked = gather(units, positions[-1] + 3 if rows else 0, selection)

    seen, kept, repeated, contradicted = set(), [], [], []
    for position, row in zip(positions, rows):
        if row["content"] in seen:
            repeated.append(position)
        elif on_disagreement == "drop" and row["chosen_reward"] < row["rejected_reward"]:
            contradicted.append(position)
        else:
            kept.append((position, row))
        seen.add(row["content"])
    assert ranked.position.tolist() == [position for position, _ in kept]
    assert ranked.dropped[Reason.DUPLICATE].tolist() == repeated
    assert ranked.dropped.get(Reason.DISAGREEMENT, np.zeros(0)).tolist() == contradicted
    margins = [row["chosen_reward"] - row["rejected_reward"] for _, row in kept]
    assert ranked.columns["reward_margin"].tolist() == margins
    means = [[row[f"{s}_logps"] / row[f"{s}_num_tokens"] for s in ("chosen", "rejected")] for _, row in kept]
    assert ranked.columns["simpo_margin"].tolist() == [a - b for a, b in means]
    if by_tokens:
        for name in ("chosen_num_tokens", "rejected_num_tokens"):
            assert ranked.columns[name].tolist() == [row[name] for _, row in kept]
    if capped:
        assert [tuple(key) for key in ranked.prompt_key.tolist()] == [row["prompt"] for _, row in kept]

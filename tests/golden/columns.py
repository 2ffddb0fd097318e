"""Scored columns as plain arrays, the Pairs that ranking takes them in, and the ranking of all of them at once."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from mapjob.config.selection import Selection
from mapjob.ranking import rank
from mapjob.ranking.gather import gather
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import Ranking


def synthetic_columns(num: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns as models give them: long completions have lower sums, and the reward agrees with two labels in three."""
    rng = np.random.default_rng(seed)
    columns = {}
    for side, ahead in (("chosen", 0.6), ("rejected", 0.0)):
        tokens = rng.integers(5, 500, num).astype(float)
        logps = -tokens * rng.gamma(20, 0.1, num)
        columns |= {f"{side}_reward": rng.normal(ahead, 1, num), f"{side}_num_tokens": tokens, f"{side}_logps": logps}
        columns[f"ref_{side}_logps"] = logps - rng.normal(ahead, 8, num)
        columns[f"{side}_unconditional_logps"] = logps - tokens * rng.normal(0.4, 0.3, num)
        columns[f"{side}_collision_logps"] = -tokens * rng.gamma(20, 0.1, num)
    columns["edit_distance"] = rng.integers(0, 500, num).astype(float)
    return columns


def pairs_of(columns: dict[str, Any]) -> Pairs:
    """Pairs with these columns, in corpus order, all of different texts."""
    num = len(next(iter(columns.values())))
    rows = np.arange(num)
    return Pairs(
        position=rows,
        pair_in_row=np.zeros(num, np.int64),
        pair_id=pa.array([f"pair-{i:06}" for i in rows]),
        content_key=np.stack([rows, rows * 7], 1).astype(np.uint64),
        prompt_key=np.stack([rows // 3, rows // 3], 1).astype(np.uint64),
        chosen=np.zeros(num, np.int64),
        rejected=np.ones(num, np.int64),
        columns={name: np.asarray(values, float) for name, values in columns.items()},
    )


def rank_pairs(pairs: Pairs, selection: Selection) -> Ranking:
    """The ranking of pairs that are all of the corpus; only their positions need to ascend."""
    ranked = gather([pairs], len(pairs), selection)
    ids = dict(zip(pairs.position.tolist(), pairs.pair_id.to_pylist()))
    return rank.rank_pairs(ranked, selection, lambda positions: pa.array([ids[i] for i in positions.tolist()]))


def whole(units: Iterable[Pairs]) -> Pairs:
    """The pairs of all units as one."""
    parts = list(units)

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    names = ("position", "pair_in_row", "content_key", "prompt_key", "chosen", "rejected")
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    pair_id = pa.concat_arrays([part.pair_id for part in parts])
    return Pairs(**{name: joined(name) for name in names}, pair_id=pair_id, columns=columns)

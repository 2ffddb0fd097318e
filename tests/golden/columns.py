"""Scored columns as plain arrays, and the Pairs that ranking takes them in."""

from typing import Any

import numpy as np
import pyarrow as pa

from mapjob.ranking.select import Pairs


def synthetic_columns(num: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns as models give them: long completions have lower sums, and the reward agrees with two labels in three."""
    rng = np.random.default_rng(seed)
    columns = {}
    for side, ahead in (("chosen", 0.6), ("rejected", 0.0)):
        tokens = rng.integers(5, 500, num).astype(float)
        logps = -tokens * rng.gamma(20, 0.1, num)
        columns |= {f"{side}_reward": rng.normal(ahead, 1, num), f"{side}_num_tokens": tokens, f"{side}_logps": logps}
        columns[f"ref_{side}_logps"] = logps - rng.normal(ahead, 8, num)
    return columns


def pairs_of(columns: dict[str, Any], rows_per_unit: int = 700) -> Pairs:
    """Pairs with these columns, in corpus order, all of different texts."""
    num = len(next(iter(columns.values())))
    rows = np.arange(num)
    return Pairs(
        position=rows,
        unit=rows // rows_per_unit,
        pair_id=pa.array([f"pair-{i:06}" for i in rows]),
        content_key=np.stack([rows, rows * 7], 1).astype(np.uint64),
        prompt_key=np.stack([rows // 3, rows // 3], 1).astype(np.uint64),
        chosen=np.zeros(num, np.int64),
        rejected=np.ones(num, np.int64),
        columns={name: np.asarray(values, float) for name, values in columns.items()},
    )

"""The exact ranking of a very large corpus: time and memory, and their extrapolation to ten times as many pairs.

    python -m benchmarks.rank [--pairs 1e8] [--json]

What `mapjob rank` does between the score store and the files of a selection: pairs arrive unit by unit, exact repeats
are removed, both margins are scaled over the whole corpus, every pair gets its rank, and the best 40 % are kept. Scores
and keys come from a seed, in single precision as models give them, so that there are ties; a thousandth of the pairs
are repeats. Times are seconds of the processor. Reading the store is not included (`benchmarks.scale` has it), nor is
generating the numbers.
"""

import argparse
import json
import math
import resource
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from mapjob.config.run import Selection
from mapjob.ranking.gather import gather
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import rank_pairs

ROWS_PER_UNIT = 100_000
FURTHER = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=float, default=1e8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measured(int(arguments.pairs))
    for name, value in result.items():
        print(f"{name:<28}{value:>18,.4g}" if isinstance(value, float) else f"{name:<28}{value:>18,}")
    if arguments.json:
        print(json.dumps(result))


def measured(num_pairs: int) -> dict[str, float]:
    """Seconds and bytes to rank `num_pairs` pairs, also for ten times as many: sorting by n log n, the rest by n."""
    before = peak_bytes()
    selection = Selection(keep={"ratio": 0.4})
    units = Units(num_pairs)
    start = time.process_time()
    pairs = gather(units, num_pairs, selection)
    gather_s = time.process_time() - start - units.making_s
    start = time.process_time()
    ranking = rank_pairs(pairs, selection, pair_ids)
    rank_s = time.process_time() - start
    held = peak_bytes() - before
    further = FURTHER * num_pairs
    longer = FURTHER * math.log(further) / math.log(num_pairs)
    return {
        "pairs": num_pairs,
        "ranked": len(pairs),
        "selected": len(ranking.kept),
        "gather_s": gather_s,
        "rank_s": rank_s,
        "us_per_pair": (gather_s + rank_s) / num_pairs * 1e6,
        "driver_bytes": held,
        "bytes_per_pair": held / num_pairs,
        "extrapolated_pairs": further,
        "extrapolated_s": FURTHER * gather_s + longer * rank_s,
        "extrapolated_driver_bytes": FURTHER * held,
    }


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def pair_ids(positions: np.ndarray) -> pa.Array:
    return pa.array(np.char.zfill(positions.astype(str), 12))


class Units:
    """Scored pairs, one unit at a time; `making_s` is the time to generate them."""

    def __init__(self, num_pairs: int):
        self.num_pairs, self.making_s = num_pairs, 0.0

    def __iter__(self) -> Iterator[Pairs]:
        for first in range(0, self.num_pairs, ROWS_PER_UNIT):
            start = time.process_time()
            unit = made_up(first, min(ROWS_PER_UNIT, self.num_pairs - first))
            self.making_s += time.process_time() - start
            yield unit


def made_up(first: int, num: int) -> Pairs:
    random = np.random.default_rng(first)

    def numbers(mean: float, spread: float) -> np.ndarray:
        return (mean + spread * random.standard_normal(num, np.float32)).astype(np.float64)

    keys = random.integers(0, 2**64, (num, 2), np.uint64)
    keys[: num // 1000] = keys[num // 1000 : 2 * (num // 1000)]
    sides = ("chosen", "rejected")
    columns = {f"{side}_reward": numbers(0, 2) for side in sides}
    columns |= {f"{side}_logps": numbers(-300, 100) for side in sides}
    columns |= {f"{side}_num_tokens": random.integers(20, 600, num).astype(np.float64) for side in sides}
    return Pairs(
        position=np.arange(first, first + num),
        pair_in_row=np.zeros(num, np.int64),
        pair_id=pa.nulls(num, pa.string()),
        content_key=keys,
        prompt_key=keys,
        chosen=np.zeros(num, np.int64),
        rejected=np.ones(num, np.int64),
        columns=columns,
    )


if __name__ == "__main__":
    main()

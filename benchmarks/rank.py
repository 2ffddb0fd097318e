"""The exact ranking of a very large corpus: time and memory, and their extrapolation to ten times as many pairs.

    python -m benchmarks.rank [--pairs 1e8] [--json]
    python -m benchmarks.rank --stored [--pairs 1e6] [--json]

What `mapjob rank` does between the score store and the files of a selection: pairs arrive unit by unit, exact repeats
are removed, both margins are scaled over the whole corpus, every pair gets its rank, and the best 40 % are kept. Scores
and keys come from a seed, in single precision as models give them, so that there are ties; a thousandth of the pairs
are repeats. Times are seconds of the processor. Reading the store is not included, nor is generating the numbers.

With --stored the pairs come out of a score store: units of 2,000 rows in three column families, a hundredth of the rows
refused. Printed are the steps of one process, and what is read: from the files of the units, then from packs. No model,
no Ray and no corpus are needed.
"""

import argparse
import json
import math
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import pyarrow as pa

from mapjob.config.input import Columns
from mapjob.config.selection import Selection
from mapjob.corpus.plan import Corpus, Plan
from mapjob.corpus.reading import Reading
from mapjob.corpus.units import Unit
from mapjob.ranking.compare import PROFILE_COLUMNS
from mapjob.ranking.gather import gather
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import rank_pairs
from mapjob.selection.load import load_scored
from mapjob.selection.scored import ScoredUnits
from mapjob.store.score_store import ScoreStore
from mapjob.store.storage import Storage

T = TypeVar("T")

ROWS_PER_UNIT = 100_000
ROWS_PER_STORED_UNIT = 2_000
FAMILIES = {name: name for name in ("records", "policy", "reward")}  # and the fingerprints that they lie under
FURTHER = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=float, help="1e8 by default, 1e6 with --stored")
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    measure = measured_from_store if arguments.stored else measured
    result = measure(int(arguments.pairs or (1e6 if arguments.stored else 1e8)))
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


def measured_from_store(num_pairs: int) -> dict[str, float]:
    """CPU seconds of each step of a ranking from the files of units, then from packs, and how these were written."""
    with tempfile.TemporaryDirectory(prefix="mapjob-rank-") as folder:
        result = {"pairs": num_pairs, "units": len(plan_of(num_pairs).units)}
        apart(store_units, folder, num_pairs)
        result |= steps_of_ranking(folder, num_pairs)
        result |= apart(pack_units, folder, num_pairs)
        from_packs = steps_of_ranking(folder, num_pairs)
        assert all(from_packs[name] == result[name] for name in ("ranked", "selected")), "packs change nothing"
        return result | {
            f"packs_{name}": value for name, value in from_packs.items() if name not in ("ranked", "selected")
        }


def apart(work: Callable[[str, int], T], folder: str, num_pairs: int) -> T:
    """What `work` returns in a process of its own, whose memory and whose seconds are not those of the ranking."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, folder, num_pairs).result()


def steps_of_ranking(folder: str, num_pairs: int) -> dict[str, float]:
    """CPU seconds of each step, the later ones with all that they read."""
    store, selection, plan = ScoreStore(folder), Selection(keep={"ratio": 0.4}), plan_of(num_pairs)
    ids = [unit.id for unit in plan.units]
    start = time.process_time()
    for fingerprint in FAMILIES.values():
        for _ in store.read_all(fingerprint, ids):
            pass
    read_s = time.process_time() - start
    start = time.process_time()
    for _ in ScoredUnits(plan, FAMILIES, store, selection).read_numbers():
        pass
    pairs_s = time.process_time() - start
    store = ScoreStore(folder)
    with count_calls() as counted:
        start = time.process_time()
        scored = load_scored(ScoredUnits(plan, FAMILIES, store, selection), selection, PROFILE_COLUMNS)
        load_s = time.process_time() - start
        start = time.process_time()
        ranking = rank_pairs(scored.pairs, selection, scored.units.pair_ids)
        rank_s = time.process_time() - start
    return {
        "ranked": len(ranking.pairs),
        "selected": len(ranking.kept),
        "read_whole_cpu_s": read_s,
        "read_and_pair_cpu_s": pairs_s,
        "load_cpu_s": load_s,
        "rank_cpu_s": rank_s,
        "numbers_cpu_s": load_s + rank_s,
        "objects_read": counted["read"],
        "objects_listed": counted["names"],
    }


@contextmanager
def count_calls() -> Iterator[Counter[str]]:
    """Counts what is read from a storage inside, and what is listed."""
    calls: Counter[str] = Counter()
    methods = {name: getattr(Storage, name) for name in ("read", "names")}

    def count(name: str) -> None:

        def counted(self: Storage, *arguments: str) -> object:
            calls[name] += 1
            return methods[name](self, *arguments)

        setattr(Storage, name, counted)

    for name in methods:
        count(name)
    yield calls
    for name, method in methods.items():
        setattr(Storage, name, method)


def plan_of(num_pairs: int) -> Plan:
    starts = range(0, num_pairs, ROWS_PER_STORED_UNIT)
    units = (Unit(f"{i:020x}", "", i, min(i + ROWS_PER_STORED_UNIT, num_pairs)) for i in starts)
    return Plan(Corpus(Reading(), Columns(), "raw"), "", pa.schema([]), tuple(units), 1)


def store_units(folder: str, num_pairs: int) -> None:
    """Write the columns of every unit as scoring does."""
    store = ScoreStore(folder)
    for unit in plan_of(num_pairs).units:
        for name, table in stored_tables(unit).items():
            store.commit(FAMILIES[name], unit.id, table)


def pack_units(folder: str, num_pairs: int) -> dict[str, float]:
    """Write the packs as a run does after scoring."""
    units = {unit.id: unit.num_rows for unit in plan_of(num_pairs).units}
    start = time.process_time()
    ScoreStore(folder).write_packs(FAMILIES.values(), units)
    return {"pack_cpu_s": time.process_time() - start}


def stored_tables(unit: Unit) -> dict[str, pa.Table]:
    """The columns of a unit by family: a hundredth of the rows is refused, a hundredth are repeats."""
    random, num = np.random.default_rng(unit.start), unit.num_rows
    refused = random.random(num) < 0.01
    row = pa.array(np.arange(num, dtype=np.int32))
    names = [f"{value:032x}" for value in range(unit.start, unit.stop)]
    row_key = pa.array([random.bytes(16) for _ in names], pa.binary(16))
    keys = random.integers(0, 2**64, 2 * num, np.uint64)
    repeats = np.flatnonzero(random.random(num - 1) < 0.01) + 1
    keys.reshape(-1, 2)[repeats] = keys.reshape(-1, 2)[repeats - 1]
    nothing = pa.nulls(num, pa.string())
    records = {
        "row": row,
        "row_key": row_key,
        "pair_id": pa.array(names),
        "completion_keys": two_each(keys, np.zeros(num, bool)),
        "prompt_key": row_key,
        "group": nothing,
        "num_completions": pa.array(np.full(num, 2, np.int32)),
        "reason": nothing,
        "detail": nothing,
    }
    verdict = {flag: pa.array(np.zeros(num, bool)) for flag in ("truncated", "boundary_moved", "text_not_kept")}
    verdict["reason"] = pa.array(["overlength" if bad else None for bad in refused], pa.string())
    verdict["detail"] = pa.array(["9000 tokens" if bad else None for bad in refused], pa.string())
    tokens = random.integers(20, 600, 2 * num).astype(np.int32)
    logps = -tokens * (1 + random.random(2 * num))
    policy = {"row": row, "row_key": row_key, "logps": two_each(logps, refused)}
    rewards = {"rewards": two_each(2 * random.standard_normal(2 * num, np.float32).astype(np.float64), refused)}
    policy["num_tokens"] = two_each(tokens, refused)
    reward = {"row": row, "row_key": row_key, **rewards, **verdict}
    return {"records": pa.table(records), "policy": pa.table({**policy, **verdict}), "reward": pa.table(reward)}


def two_each(values: np.ndarray, is_null: np.ndarray) -> pa.Array:
    """Lists of two values, of rows that are not null."""
    offsets = np.append(0, np.cumsum(2 * ~is_null)).astype(np.int32)
    mask = pa.array(is_null) if is_null.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[np.repeat(~is_null, 2)]), mask=mask)


if __name__ == "__main__":
    main()

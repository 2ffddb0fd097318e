"""`mapjob browse` on a large selection: seconds per page, and the memory of the program.

    python -m benchmarks.browse [--rows N] [--rounds N] [--json]

A run folder of synthetic pairs, about 700 bytes of text per row, in the files and row groups that a run writes. Every
round starts the program again and queries it over HTTP, as a browser does. `start` is Python and its imports.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.report.browse import ROWS_PER_PAGE
from mapjob.report.pages import DISAGREEING
from mapjob.selection.spool import ROWS_PER_FILE
from mapjob.store.run_folder import RunFolder

WORDS = ["what", "is", "best", "to", "learn", "from", "when", "a", "model", "has", "seen", "it", "and", "says", "so"]
NUM_TEXTS, TEXT_WORDS, NUM_GROUPS = 1_000, 60, 12
NEEDLE = "needle"  # in one row of a hundred thousand


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of the table.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mapjob-browse-") as folder:
        run = make_run(folder, arguments.rows)
        rounds = [one_round(run, arguments.rows) for _ in range(arguments.rounds)]
    medians = {
        what: {name: statistics.median(one[what][name] for one in rounds) for name in rounds[0][what]}
        for what in rounds[0]
    }
    if arguments.json:
        print(json.dumps({"rows": arguments.rows, "rounds": arguments.rounds, **medians}))
        return
    print(f"{arguments.rows:,} rows, median of {arguments.rounds}\n{'':<28}{'seconds':>9}{'memory, MB':>12}")
    for what, figures in medians.items():
        print(f"{what:<28}{figures['seconds']:>9.2f}{figures['peak_mb']:>12,.0f}")


def make_run(folder: str, num_rows: int) -> str:
    """Write a finished run of `num_rows` selected rows; returns its folder."""
    run = RunFolder(folder, "map-0123456789abcdef")
    generator = np.random.default_rng(0)
    texts = pa.array([" ".join(generator.choice(WORDS, TEXT_WORDS)) for _ in range(NUM_TEXTS)])
    num_files = -(-num_rows // ROWS_PER_FILE)
    for number in range(num_files):
        rank = np.arange(number * ROWS_PER_FILE, min(num_rows, (number + 1) * ROWS_PER_FILE)) + 1
        run.put_table(f"selected/train-{number:05}-of-{num_files:05}.parquet", rows_of(rank, texts, generator))
    columns = {"id": None, "group": "source"}
    counts = {"selected": num_rows, "ranked": 2 * num_rows}
    config = {"input": {"columns": columns}, "output_format": "trl"}
    corpus = {"reading": {"prompt": ["prompt"], "sides": ["chosen", "rejected"]}, "style": "raw"}
    run.commit({"run_id": run.run_id, "config": config, "corpus": corpus, "counts": counts})
    return run.url


def rows_of(rank: np.ndarray, texts: pa.Array, generator: np.random.Generator) -> pa.Table:
    """rank: (N,). Each text ends in its rank, so that no two are the same."""
    size = len(rank)

    def said() -> pa.Array:
        return pc.binary_join_element_wise(
            texts.take(pa.array(generator.integers(0, NUM_TEXTS, size))), pa.array(rank).cast(pa.string()), " "
        )

    prompt = pc.if_else(pa.array(rank % 100_000 == 50_001), pc.binary_join_element_wise(said(), NEEDLE, " "), said())
    chosen_reward, rejected_reward = generator.normal(size=(2, size))
    return pa.table(
        {
            "prompt": prompt,
            "chosen": said(),
            "rejected": said(),
            "source": pa.array([f"source {number}" for number in generator.integers(0, NUM_GROUPS, size)]),
            "pair_id": pc.binary_join_element_wise("pair", pa.array(rank).cast(pa.string()), "-"),
            "rank": rank,
            "map_score": -rank / size,
            "chosen_reward": chosen_reward,
            "rejected_reward": rejected_reward,
            "reward_margin": chosen_reward - rejected_reward,
            "implicit_margin": generator.normal(size=size),
            "label_agrees": chosen_reward > rejected_reward,
        }
    )


def one_round(run: str, num_rows: int) -> dict[str, dict[str, float]]:
    """Seconds of each step, and the largest memory of the program until then."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "mapjob", "browse", run, "--against", run], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        told = process.stderr.readline()
        found: dict[str, dict[str, float]] = {}

        def note(what: str, seconds: float) -> None:
            found[what] = {"seconds": seconds, "peak_mb": peak_mb(process.pid)}

        note("start", time.monotonic() - start)
        url = re.findall(r"http://\S+", told)[0]
        middle, last = num_rows // ROWS_PER_PAGE // 2, -(-num_rows // ROWS_PER_PAGE)
        for what, query in {
            "first page": {},
            "page in the middle": {"page": middle},
            "last page": {"page": last},
            "one group": {"group": "source 3"},
            "against the reward model": {"labels": DISAGREEING},
            "a pair_id": {"text": f"pair-{num_rows // 2}"},
            "search of all texts": {"text": NEEDLE},
        }.items():
            note(what, seconds_of(lambda query=query: urlopen(f"{url}?{urlencode(query)}", timeout=600).read()))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    return found


def seconds_of(call: Callable[[], Any]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def peak_mb(pid: int) -> float:
    """Linux: the largest resident set so far."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


if __name__ == "__main__":
    main()

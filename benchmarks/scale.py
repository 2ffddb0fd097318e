"""A million pairs through the whole job without a model: the time and memory of everything else.

    python -m benchmarks.scale [--pairs FEW MANY] [--rows-per-unit N] [--json]
    python -m benchmarks.scale --pairs 1000 20000 --rows-per-unit 1    # the cost per unit in the driver

Real Parquet shards, tokens, Ray, score store and `mapjob.job.run`; only the models are left out: scores come from a
hash of the tokens. The job runs on few pairs and on many, each in a separate process that is watched from outside.
`driver` is the process that ranks and publishes: the kernel's peak of its unshared memory. `all` is the PSS of that
process and its children, in which shared memory is counted once, sampled once per second. The lower figures compare the
second run with the first; with few rows per unit, score_ms_per_unit is the cost of a unit itself.
"""

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.hash_scorer import WORDS, HashScorer, make_nothing_models
from mapjob.config.load import parse_config
from mapjob.job.run import run_job
from mapjob.pipeline import graph

MAX_ROWS_PER_SHARD = 50_000
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs=2, default=[250_000, 1_000_000], metavar=("FEW", "MANY"))
    parser.add_argument("--rows-per-unit", type=int, default=2_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # The same shard size in both, since a shard's row group is read whole.
    rows_per_shard = min(MAX_ROWS_PER_SHARD, *arguments.pairs)
    small, large = (measured(size, arguments.rows_per_unit, rows_per_shard) for size in arguments.pairs)
    further = {name: large[name] - small[name] for name in large}
    growth = {
        "driver_growth": further["driver_peak_mib"] / small["driver_peak_mib"],
        "all_growth": further["all_peak_mib"] / small["all_peak_mib"],
        "driver_bytes_per_pair": further["driver_peak_mib"] * MIB / further["pairs"],
        "score_ms_per_unit": further["score_s"] * 1000 / further["units"],
    }
    for name in large:
        print(f"{name:<26}{_figure(small[name])}{_figure(large[name])}")
    for name, value in growth.items():
        print(f"{name:<26}{'':>16}{_figure(value)}")
    if arguments.json:
        print(json.dumps({"runs": [small, large], **growth}))


def _figure(value: float) -> str:
    return f"{value:>16,.4g}" if isinstance(value, float) else f"{value:>16,}"


def measured(num_pairs: int, rows_per_unit: int, rows_per_shard: int) -> dict[str, Any]:
    """One run on `num_pairs` pairs in a separate process: speed, seconds per stage, peak memory."""
    with tempfile.TemporaryDirectory(prefix="mapjob-scale-") as name:
        folder = Path(name)
        write_shards(folder / "corpus", num_pairs, rows_per_shard)
        make_nothing_models(folder / "models")
        tree = {
            "input": {"path": str(folder / "corpus"), "columns": {"id": "name"}},
            "output": {"path": str(folder / "output")},
            "models": {kind: {"path": str(folder / "models" / kind)} for kind in ("policy", "reward")},
            "execution": {"rows_per_unit": rows_per_unit},
        }
        process = multiprocessing.get_context("spawn").Process(target=run_hash_scorers, args=(tree,))
        start = time.monotonic()
        process.start()
        with Peaks(process.pid) as peaks:
            process.join()
        wall_s = time.monotonic() - start
        assert process.exitcode == 0, "the job failed"
        (path,) = (folder / "output" / "runs").glob("*/manifest.json")
        manifest = json.loads(path.read_text())
    counts, stages = manifest["counts"], manifest["spent"]["seconds"]
    figures: dict[str, Any] = {"pairs": num_pairs, "units": manifest["corpus"]["num_units"], "wall_s": wall_s}
    figures |= {"pairs_per_s": num_pairs / wall_s, **{f"{stage}_s": seconds for stage, seconds in stages.items()}}
    figures |= {name: counts[name] for name in ("ranked", "selected", "dropped")}
    return figures | {"driver_peak_mib": peaks.driver / MIB, "all_peak_mib": peaks.all / MIB}


def run_hash_scorers(tree: dict[str, Any]) -> None:
    graph.ScorerActor = HashScorer
    run_job(parse_config(tree))


def write_shards(folder: Path, num_pairs: int, rows_per_shard: int) -> None:
    """Short texts of a few words; one row in a hundred is an exact repeat, one in a thousand has identical sides."""
    folder.mkdir()
    for number, start in enumerate(range(0, num_pairs, rows_per_shard)):
        generator = np.random.default_rng(number)
        stop = min(start + rows_per_shard, num_pairs)
        places = np.arange(start, stop)
        places[generator.random(len(places)) < 0.01] = start
        prompt, chosen, rejected = (_texts(generator, places, words) for words in (6, 12, 12))
        same = generator.random(len(places)) < 0.001
        rejected = np.where(same, chosen, rejected)
        first = places == start
        for text in (prompt, chosen, rejected):
            text[first] = text[0]
        names = [f"pair-{row:09}" for row in range(start, stop)]
        table = {"name": names, "prompt": prompt, "chosen": chosen, "rejected": rejected}
        pq.write_table(pa.table(table), folder / f"part-{number:04}.parquet", row_group_size=10_000)


def _texts(generator: np.random.Generator, places: np.ndarray, num_words: int) -> np.ndarray:
    words = np.array(WORDS)[generator.integers(len(WORDS), size=(len(places), num_words))]
    return np.array([f"{place} {' '.join(row)}" for place, row in zip(places, words)], object)


class Peaks:
    """Largest unshared memory of a process, and largest PSS of it and its children. A context manager."""

    def __init__(self, pid: int):
        self.driver = self.all = 0
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        look = 0
        while not self._stop.wait(0.1):
            status = _kernel_says(self._process, "status")
            if "VmHWM" in status:
                self.driver = max(self.driver, status["VmHWM"] - status["RssFile"] - status["RssShmem"])
            if look % 10 == 0:
                self.all = max(self.all, sum(_kernel_says(p, "smaps_rollup").get("Pss", 0) for p in self._all()))
            look += 1

    def _all(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _kernel_says(process: psutil.Process, file: str) -> dict[str, int]:
    """The sizes in /proc/<pid>/<file>, in bytes; none if the process has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/{file}").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    sizes = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in sizes}


if __name__ == "__main__":
    main()

"""How scoring scales with nodes: real Ray with several nodes on this machine, and a scorer that takes a fixed time.

    python -m benchmarks.scaling [--actors 1 2 4 8] [--seconds S] [--json]
    python -m benchmarks.scaling --elastic [--seconds S] [--json]

To Ray each node has two GPUs, one for the policy and one for the reward model, whose actors sleep S seconds per unit
and then return scores from a hash of the tokens. `of_linear` is the number of units done while all actors were up and
had not run out of units, over the most that they could have done without a pause between two units.

With --elastic two nodes start, two join once a quarter of the units is committed, and one of the first is lost at half.
`longest_gap_s` is the longest time after the loss in which a surviving actor had no unit.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from itertools import pairwise
from multiprocessing import Process, get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from benchmarks.hash_scorer import SENTENCE, make_nothing_models
from benchmarks.sleeper import LOG, SECONDS, Sleeper
from mapjob.config.load import parse_config
from mapjob.job.run import run_job
from mapjob.pipeline import graph

ROWS_PER_UNIT, UNITS_PER_ACTOR, UNITS_OF_ELASTIC = 10, 20, 120
# Two CPUs each: nodes that claim many more cores than the machine has start more encoders than it can run.
NODE = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 100 * 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8], help="actors per scorer, one per node")
    parser.add_argument("--seconds", type=float, default=4.0, help="time per unit")
    parser.add_argument("--elastic", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.elastic:
        rows = [elastic(arguments.seconds)]
    else:
        rows = [weak_scaling(actors, arguments.seconds) for actors in arguments.actors]
    for row in rows:
        print(json.dumps(row) if arguments.json else "  ".join(f"{name} {value}" for name, value in row.items()))


def weak_scaling(actors: int, seconds: float) -> dict[str, Any]:
    """As many nodes as actors per scorer, and units in proportion."""
    with Walk(actors, actors * UNITS_PER_ACTOR, seconds) as walk:
        walk.finish(walk.start({"num_gpus": 1, "min_size": actors, "max_size": actors}))
        lines = walk.lines()
    shares = [busy_share([line for line in lines if line["scorer"] == name]) for name in ("policy", "reward")]
    return {"actors": actors, "units": actors * UNITS_PER_ACTOR, "of_linear": [round(share, 3) for share in shares]}


def busy_share(lines: list[dict[str, Any]]) -> float:
    """Share of time spent in units, from when all actors are up until the first of them ends its last unit."""
    actors = defaultdict(list)
    for line in lines:
        actors[line["actor"]].append((line["start"], line["end"]))
    begin = max(min(start for start, _ in spans) for spans in actors.values())
    end = min(max(end for _, end in spans) for spans in actors.values())
    busy = sum(max(0.0, min(stop, end) - max(start, begin)) for spans in actors.values() for start, stop in spans)
    return busy / (len(actors) * (end - begin))


def elastic(seconds: float) -> dict[str, Any]:
    """Two nodes, then four, then three."""
    with Walk(2, UNITS_OF_ELASTIC, seconds) as walk:
        names = {node.node_id: f"node {number}" for number, node in enumerate(walk.cluster.worker_nodes, 1)}
        running = walk.start({"num_gpus": 1, "min_size": 1, "max_size": 4})
        walk.wait_for(running, UNITS_OF_ELASTIC // 4)
        for number in (3, 4):
            names[walk.cluster.add_node(**NODE).node_id] = f"node {number} (joined)"
        walk.wait_for(running, UNITS_OF_ELASTIC // 2)
        (lost,) = (node for node in walk.cluster.worker_nodes if names[node.node_id] == "node 1")
        names[lost.node_id] = "node 1 (lost)"
        walk.cluster.remove_node(lost, allow_graceful=False)
        lost_at = time.time()
        counts = walk.finish(running)
        lines = walk.lines()
    by_node = Counter(names[line["node"]] for line in lines)
    gap = longest_gap(lines, lost_at)
    return {
        "units": UNITS_OF_ELASTIC,
        "ranked": counts["ranked"],
        "longest_gap_s": round(gap, 2),
        **dict(sorted(by_node.items())),
    }


def longest_gap(lines: list[dict[str, Any]], since: float) -> float:
    """Longest time without a unit, after `since`, of an actor that had units before and after it."""
    actors = defaultdict(list)
    for line in sorted(lines, key=lambda line: line["start"]):
        actors[line["actor"]].append(line)
    gaps = [0.0]
    for units in actors.values():
        for one, other in pairwise(units):
            if one["end"] >= since and any(line["start"] < since for line in units):
                gaps.append(other["start"] - one["end"])
    return max(gaps)


class Walk:
    """A cluster, and one run on it. A context manager."""

    def __init__(self, nodes: int, units: int, seconds: float):
        self._folder = tempfile.TemporaryDirectory(prefix="mapjob-scaling-")
        self.folder = Path(self._folder.name)
        os.environ |= {SECONDS: str(seconds), LOG: str(self.folder / "log")}
        corpus = self.folder / "corpus"
        corpus.mkdir()
        texts = [f"{row} {SENTENCE}" for row in range(units * ROWS_PER_UNIT)]
        rows = {"prompt": texts, "chosen": [f"{text} chosen" for text in texts], "rejected": texts}
        pq.write_table(pa.table(rows), corpus / "part-0.parquet")
        make_nothing_models(self.folder / "models")
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(nodes):
            self.cluster.add_node(**NODE)

    def __enter__(self) -> "Walk":
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.shutdown()
        self._folder.cleanup()

    def start(self, pool: dict[str, int]) -> Process:
        """A run in a separate process."""
        tree = {
            "input": {"path": str(self.folder / "corpus")},
            "output": {"path": str(self.folder / "output")},
            "models": {kind: {"path": str(self.folder / "models" / kind)} for kind in ("policy", "reward")},
            "execution": {"rows_per_unit": ROWS_PER_UNIT, "address": self.cluster.address},
        }
        tree["execution"]["pools"] = {"policy": pool, "reward": pool}
        running = get_context("spawn").Process(target=run_sleepers, args=(tree,))
        running.start()
        return running

    def finish(self, running: Process) -> dict[str, int]:
        """The counts of the run, once it has finished."""
        running.join()
        assert running.exitcode == 0, "the run failed"
        (manifest,) = (self.folder / "output" / "runs").glob("*/manifest.json")
        return json.loads(manifest.read_text())["counts"]

    def wait_for(self, running: Process, units: int) -> None:
        """Wait until the last scorer has done so many units."""
        while sum(line["scorer"] == "reward" for line in self.lines()) < units:
            assert running.is_alive(), "the run failed"
            time.sleep(0.1)

    def lines(self) -> list[dict[str, Any]]:
        log = self.folder / "log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def run_sleepers(tree: dict[str, Any]) -> None:
    graph.ScorerActor = Sleeper
    run_job(parse_config(tree))


if __name__ == "__main__":
    main()

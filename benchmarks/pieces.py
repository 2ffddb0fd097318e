"""Ranking in pieces: by Ray tasks on this machine, and on paper for a cluster.

    python -m benchmarks.pieces [--pairs 1e6 4e6] [--pairs-per-piece 1e5] [--json]
    python -m benchmarks.pieces --on-paper 1e9 [--nodes 64] [--cores 16] [--json]

Pairs come from a seed, as in `benchmarks.rank`; MAP keeps the best 40 %. With Ray: what the driver's process does and
holds (`driver_mib`, the peak of its unshared memory), and the objects that pieces send each other; the ranks
are compared with those of one process.

On paper: the programs of a run, without the figures of its report, run here on 20 pieces, and are counted: rounds, CPU
seconds and bytes per pair. A cluster has as many pieces as mapjob would cut. A round takes the CPU seconds of its
slowest piece, its bytes take 10 Gbit/s of a node, and the driver takes its time for every task, which the first form
measures. Reading the store and publishing take what `benchmarks.rank --stored` and `benchmarks.publish` print.
"""

import argparse
import json
import os
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.rank import made_up, pair_ids
from benchmarks.scale import MIB, Peaks
from mapjob import collective
from mapjob.collective import Local, Piece, Pieces, Unanswered, run_until_asked
from mapjob.config.selection import Selection
from mapjob.job.rank import MAX_PIECES, ROWS_PER_PIECE
from mapjob.ranking.compare import overlap, peers
from mapjob.ranking.gather import Gathered, collect, drop
from mapjob.ranking.rank import Ranking, rank_pairs
from mapjob.selection.manifest import describe_margins

SELECTION = Selection(keep={"ratio": 0.4})
NODE_BYTES_PER_S = 10e9 / 8
TASK_S = 2.4e-3  # of the driver, for a task; see driver_s_per_task
UNIT_BYTES, REFERENCE_BYTES = 600, 6_600  # of the driver; see benchmarks.simulate, and Ray's issue 23603
READ_S, PUBLISH_S, TEXT_BYTES, STORED_BYTES = 0.77e-6, 25e-6, 1_200, 57  # per pair, and per kept row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=float, nargs="+", default=[1e6, 4e6])
    parser.add_argument("--pairs-per-piece", type=float, default=1e5)
    parser.add_argument("--on-paper", type=float)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--cores", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.on_paper:
        results = [on_paper(int(options.on_paper), options.nodes, options.cores)]
    else:
        results = [on_ray(int(num), int(options.pairs_per_piece)) for num in options.pairs]
    for result in results:
        for name, value in result.items():
            print(f"{name:<28}{value:>18,.4g}" if isinstance(value, float) else f"{name:<28}{value:>18,}")
        if options.json:
            print(json.dumps(result))


def rank(run: Pieces, firsts: Sequence[int], num: int) -> list[Any]:
    """Handles of the ranked pieces."""
    gathered = run.run(make_piece, [firsts], num)
    return run.run(rank_pairs, [run.run(drop, [gathered], SELECTION)], SELECTION, pair_ids)


def make_piece(first: int, num: int) -> Gathered:
    return collect([made_up(first, num)], num, SELECTION)


def count_ranks(ranking: Ranking) -> tuple[int, int]:
    """(how many are ranked, a sum that other ranks or another order of them would change)."""
    weights = np.arange(len(ranking.rank)) % 1013 + collective.index()
    return collective.total(np.array([len(ranking.rank), int((ranking.rank * weights).sum())]))


def on_ray(num_pairs: int, per_piece: int) -> dict[str, float]:
    """What the driver's process does and holds while Ray tasks rank, and what pieces send each other."""
    import ray

    from mapjob.pipeline import on_ray as executor
    from mapjob.pipeline.cluster import connect

    connect(None)
    ray.get([ray.remote(lambda: None).remote() for _ in range(8)])  # workers are up
    firsts, sizes, num_tasks = range(0, num_pairs, per_piece), [], 0
    pick, get = executor.pick_slices, executor._get

    def pick_and_count(slices: Sequence[Sequence[Any]], kind: str, receiver: int) -> list[Any]:
        if receiver == 0:
            refs = [ref for of_piece in slices for ref in of_piece]
            sizes.extend(known["object_size"] for known in ray.experimental.get_object_locations(refs).values())
        return pick(slices, kind, receiver)

    def get_and_count(ref: Any) -> Any:
        nonlocal num_tasks
        num_tasks += 1
        return get(ref)

    executor.pick_slices, executor._get = pick_and_count, get_and_count
    with Peaks(os.getpid()) as peaks:
        start, cpu = time.monotonic(), time.process_time()
        ranked = rank(executor.OnRay(), firsts, per_piece)
        ray.wait(ranked, num_returns=len(ranked), fetch_local=False)
        seconds, cpu_s = time.monotonic() - start, time.process_time() - cpu
    counted = get(executor.OnRay().run(count_ranks, [ranked])[0]).tolist()
    assert counted == Local().run(count_ranks, [rank(Local(), firsts, per_piece)])[0].tolist(), "the same ranks here"
    return {
        "pairs": num_pairs,
        "pieces": len(firsts),
        "ranked": counted[0],
        "tasks": num_tasks,
        "seconds": seconds,
        "driver_cpu_s": cpu_s,
        "driver_s_per_task": cpu_s / num_tasks,
        "driver_mib": peaks.driver / MIB,
        "objects_sent": len(sizes),
        "smallest_object_bytes": min(sizes, default=0),
        "sent_bytes_per_pair": sum(sizes) / num_pairs,
    }


class Counting(Local):
    """Pieces in this process: rounds, the seconds of the slowest piece of each, and what is sent."""

    def __init__(self) -> None:
        self.rounds, self.slowest_s, self.sent = 0, 0.0, 0

    def run(self, program: Callable[..., Any], columns: Sequence[Sequence[Any]], *shared: Any) -> list[Any]:
        seconds: list[float] = []

        def timed(piece: Piece, *arguments: Any) -> Any:
            start = time.process_time()
            outcome = run_until_asked(piece, *arguments)
            seconds.append(time.process_time() - start)
            if isinstance(outcome, Unanswered) and outcome.kind != "fold":
                slices = list(outcome.slices())
                self.sent += sum(len(pickle.dumps(one)) for one in slices)
                outcome.slices = lambda: slices
            if piece.index == piece.num_pieces - 1:
                self.rounds += 1
                self.slowest_s += max(seconds)
                seconds.clear()
            return outcome

        with patch.object(collective, "run_until_asked", timed):
            return super().run(program, columns, *shared)


def on_paper(num_pairs: int, nodes: int, cores: int) -> dict[str, float]:
    """Seconds, bytes and references of a ranking of so many pairs on so many nodes."""
    num_pieces = min(MAX_PIECES, -(-num_pairs // ROWS_PER_PIECE))
    run, small = Counting(), 100_000
    ranked = rank(run, range(0, 20 * small, small), small)
    for peer in peers(SELECTION):
        run.run(overlap, [ranked], SELECTION, peer, pair_ids)
    run.run(describe_margins, [ranked])
    per_piece = num_pairs / num_pieces
    waves = -(-num_pieces // (nodes * cores))  # of tasks, one after the other
    sent = run.sent / (20 * small) * num_pairs
    kept = 0.4 * num_pairs
    seconds = {
        "read_s": waves * per_piece * READ_S + STORED_BYTES * num_pairs / (nodes * NODE_BYTES_PER_S),
        "rounds_s": waves * run.slowest_s * per_piece / small + sent / (nodes * NODE_BYTES_PER_S),
        "driver_s": run.rounds * num_pieces * TASK_S,
        "texts_s": waves * kept / num_pieces * PUBLISH_S + 3 * kept * TEXT_BYTES / (nodes * NODE_BYTES_PER_S),
    }
    num_units = -(-num_pairs // 2_000)
    references = 2 * num_pieces**2
    return {
        "pairs": num_pairs,
        "pieces": num_pieces,
        "rounds": run.rounds,
        **seconds,
        "minutes": sum(seconds.values()) / 60,
        "sent_bytes": sent + kept * TEXT_BYTES,
        "references": references,
        "driver_bytes": num_units * UNIT_BYTES + references * REFERENCE_BYTES,
        "requests": 3 * -(-num_units // 250) + 3 * num_units + -(-int(kept) // 50_000),
    }


if __name__ == "__main__":
    main()

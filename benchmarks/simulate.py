"""Beyond these machines: the real planner, pools and bookkeeping, with a clock in place of models.

python -m benchmarks.simulate --pairs 1e9 --gpus 512 [--node-loss-every-s 600] [--schedule one_by_one] [--json]

Real, and timed here: the cut of files into units, the shares of GPUs, todo lists, receipts, the tally and the
manifest's list of units. Simulated: actors that take a unit when they are free, units that differ in length, nodes of 8
GPUs that fail with the units they hold and come back.
"""

import argparse
import heapq
import json
import random
import resource
import time
from collections import deque
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from mapjob.corpus.listing import Listed
from mapjob.corpus.plan import _cut_all
from mapjob.corpus.units import SourceFile, Unit
from mapjob.pipeline.pools import scorer_pools
from mapjob.pipeline.progress import Tally
from mapjob.pipeline.stages import Cost, Receipt, Todo

GPUS_A_NODE = 8
ROWS_A_FILE, ROWS_A_GROUP = 1_000_000, 10_000
# An 8B model at 40 % of an H100's 989 TFLOP/s, on 700 tokens per pair.
SECONDS_A_PAIR = 2 * 8e9 * 700 / (989e12 * 0.4)
SPREAD = 0.15  # of the time per unit: standard deviation over mean
MODEL_LOAD_S, NODE_BACK_S = 90.0, 300.0
# Requests per unit: its columns in one ranged read, and a check of the file's identity; one put per family; and for
# ranking and publishing one get per family, and the texts again.
REQUESTS_A_UNIT = 2 + 3 + 3 + 3 + 1


@dataclass
class Result:
    pairs: int
    gpus: int
    schedule: str
    units: int
    utilisation: float  # GPU seconds spent on units that were kept, over all GPU seconds
    hours: float
    nodes_lost: int
    units_lost: int
    plan_s: float
    driver_s: float  # of planning and of every receipt
    driver_bytes: int
    storage_requests: int


class Stage:
    """A pool of actors on nodes; a free actor takes the unit at the front of the queue."""

    def __init__(self, actors: list[int], mean_s: float, order: random.Random):
        self.node_of = dict(enumerate(actors))
        self.free = deque(self.node_of)
        self.queue: deque[int] = deque()
        self.held: dict[int, tuple[int, float, int]] = {}  # actor -> (unit, when it started, its event)
        self._mean_s, self._order = mean_s, order
        self.useful_s = 0.0

    def duration(self) -> float:
        return max(0.2, self._order.gauss(1.0, SPREAD)) * self._mean_s


def simulate(
    num_units: int, stages: list[Stage], node_loss_every_s: float, order: random.Random
) -> tuple[float, int, int]:
    """Run every unit through all stages; returns (seconds, nodes lost, units that had to start again)."""
    events: list[tuple[float, int, str, int, int]] = []  # (when, tie, what, stage or node, actor)
    stages[0].queue.extend(range(num_units))
    serial, now, done, lost_nodes, lost_units = 0, MODEL_LOAD_S, 0, 0, 0
    nodes = sorted({node for stage in stages for node in stage.node_of.values()})

    def push(when: float, what: str, index: int, actor: int = -1) -> None:
        nonlocal serial
        serial += 1
        heapq.heappush(events, (when, serial, what, index, actor))

    def start(index: int) -> None:
        stage = stages[index]
        while stage.queue and stage.free:
            actor, unit = stage.free.popleft(), stage.queue.popleft()
            push(now + stage.duration(), "done", index, actor)
            stage.held[actor] = unit, now, serial

    if node_loss_every_s:
        push(now + node_loss_every_s, "loss", 0)
    start(0)
    down: set[tuple[int, int]] = set()
    while done < num_units:
        now, event, what, index, actor = heapq.heappop(events)
        if what == "done":
            stage = stages[index]
            if stage.held.get(actor, (0, 0.0, 0))[2] != event:
                continue  # the actor's node failed in between
            unit, since, _ = stage.held.pop(actor)
            stage.useful_s += now - since
            stage.free.append(actor)
            if index + 1 < len(stages):
                stages[index + 1].queue.append(unit)
                start(index + 1)
            else:
                done += 1
            start(index)
        elif what == "loss":
            node, lost_nodes = order.choice(nodes), lost_nodes + 1
            for place, stage in enumerate(stages):
                for own, at in stage.node_of.items():
                    if at == node and (place, own) not in down:
                        down.add((place, own))
                        if own in stage.held:
                            stage.queue.appendleft(stage.held.pop(own)[0])
                            lost_units += 1
                        if own in stage.free:
                            stage.free.remove(own)
                        push(now + NODE_BACK_S + MODEL_LOAD_S, "back", place, own)
                start(place)
            push(now + node_loss_every_s, "loss", 0)
        elif what == "back":
            down.discard((index, actor))
            stages[index].free.append(actor)
            start(index)
    return now, lost_nodes, lost_units


def planned(pairs: int) -> tuple[list[Unit], float]:
    """Units of a corpus of `pairs` rows, and the planner's seconds."""
    groups = [ROWS_A_GROUP] * (ROWS_A_FILE // ROWS_A_GROUP)
    names = [f"s3://corpus/part-{i:06}.parquet" for i in range(max(1, pairs // ROWS_A_FILE))]
    listed = [Listed(name, name, "parquet", 1, f"etag-{i}") for i, name in enumerate(names)]
    files = [SourceFile(file.url, file, None, pa.schema([]), tuple(groups)) for file in listed]
    start = time.process_time()
    units = [replace(unit, id=f"{i:020x}") for i, unit in enumerate(_cut_all(files, dict.fromkeys(names, 2_000)))]
    return units, time.process_time() - start


def bookkeeping(units: list[Unit]) -> float:
    """Seconds of the driver for all units: todo, receipt, tally, the manifest's list."""
    start = time.process_time()
    tally = Tally(len(units), sum(unit.num_rows for unit in units))
    for unit in units:
        row = Todo(unit, ("records", "policy", "reward")).row
        costs = {"policy": Cost(1, 1.0, 0.0, 0.0, "")}
        tally.add(Receipt.of(Receipt(unit.id, unit.num_rows, {"policy": {}}, costs).row))
        assert unit.id in row["todo"]
    json.dumps([unit.id for unit in units])
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=float, default=1e6)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--node-loss-every-s", type=float, default=0.0)
    parser.add_argument("--schedule", choices=("together", "one_by_one"), default="together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    order = random.Random(options.seed)
    units, plan_s = planned(int(options.pairs))
    unit_s = SECONDS_A_PAIR * units[0].num_rows
    names = ["policy", "reward"]
    passes = [names] if options.schedule == "together" else [[name] for name in names]
    seconds = useful_s = 0.0
    nodes_lost = units_lost = 0
    for together in passes:
        pools = scorer_pools(dict.fromkeys(together, 1.0), {}, 16 * options.gpus, options.gpus, len(units))
        stages, gpu = [], 0
        for name in together:
            size = pools[name].max_size
            stages.append(Stage([(gpu + i) // GPUS_A_NODE for i in range(size)], unit_s / pools[name].num_gpus, order))
            gpu += size
        took, nodes, lost = simulate(len(units), stages, options.node_loss_every_s, order)
        shares = (stage.useful_s * pools[name].num_gpus for stage, name in zip(stages, together))
        seconds, useful_s = seconds + took, useful_s + sum(shares)
        nodes_lost, units_lost = nodes_lost + nodes, units_lost + lost
    driver_s = plan_s + bookkeeping(units)
    result = Result(
        pairs=sum(unit.num_rows for unit in units),
        gpus=options.gpus,
        schedule=options.schedule,
        units=len(units),
        utilisation=round(useful_s / (seconds * options.gpus), 4),
        hours=round(seconds / 3600, 2),
        nodes_lost=nodes_lost,
        units_lost=units_lost,
        plan_s=round(plan_s, 2),
        driver_s=round(driver_s, 2),
        driver_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        storage_requests=len(units) * REQUESTS_A_UNIT,
    )
    if options.json:
        print(json.dumps(asdict(result)))
    else:
        for name, value in asdict(result).items():
            print(f"{name:<20}{value:>20,}" if isinstance(value, int | float) else f"{name:<20}{value:>20}")


if __name__ == "__main__":
    main()

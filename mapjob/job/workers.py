"""What Ray's workers do for a run, slice by slice; the first of it: units that are new or changed get their ids."""

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from mapjob.job.prepare import Job
from mapjob.pipeline.progress import Events, Spent
from mapjob.pipeline.stages import Todo
from mapjob.scoring.reader_families import RECORDS, records_columns

T = TypeVar("T")

log = logging.getLogger(__name__)

# A graph of its own for each slice of so many units: Ray Data's driver holds memory per unit until its graph ends.
UNITS_PER_PASS = 2_000
KEEP_EVERY_S = 60.0


def name_units(job: Job, spent: Spent, events: Events) -> Job:
    """The job with an id for every unit: workers read those that have none, and put their records.

    What is known by then is written down at times, and at the end. Raises as `graph.identify` does.
    """
    from mapjob.pipeline import graph  # Ray is slow to import, and few runs need it for this
    from mapjob.pipeline.progress import ScoringProgress

    plan, records = job.plan, records_columns(job.plan.corpus)
    job.store.declare(records.fingerprint, records.identity)

    def read(cpus: float) -> None:
        nonlocal plan
        todo = [Todo(replace(plan.units[i], id=str(i)), (RECORDS,)) for i in plan.unnamed]
        num_rows, kept = sum(item.unit.num_rows for item in todo), time.monotonic()
        with spent.on("read"), ScoringProgress("reading", len(todo), num_rows, events, noun="rows") as progress:
            for part in slices(todo):
                ids = {}
                try:
                    for receipt in graph.identify(job.config, plan.corpus, records, part, cpus, spent.gpus):
                        ids[int(receipt.unit_id)] = receipt.named
                        progress.add(receipt)
                finally:
                    plan = plan.with_ids(ids)
                    if time.monotonic() - kept > KEEP_EVERY_S:
                        plan.keep(job.config.output.path)
                        kept = time.monotonic()

    on_workers(job, spent, read)
    plan.keep(job.config.output.path)
    return replace(job, plan=plan)


def on_workers(job: Job, spent: Spent, work: Callable[[float], None]) -> None:
    """Start or join Ray and do the work, once more on what is left if the cluster shrinks. work: gets the CPUs."""
    # Slow to import, and neither a run that finds everything scored nor a ranking needs them.
    from mapjob.pipeline.cluster import connect
    from mapjob.pipeline.watchdog import ClusterShrunk, raise_on_signals

    with raise_on_signals() as listen:
        while True:
            with spent.on("ray"):
                cpus, spent.gpus = connect(job.config.execution.address)
                listen()
            try:
                return work(cpus)
            except ClusterShrunk as shrunk:
                log.info(f"{shrunk.what}: continuing on what is left")


def slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """So many at a time that a graph of theirs leaves no memory behind."""
    for start in range(0, len(items), UNITS_PER_PASS):
        part = items[start : start + UNITS_PER_PASS]
        yield part
        if len(part) == UNITS_PER_PASS:
            gc.collect()  # a finished graph holds itself in reference cycles

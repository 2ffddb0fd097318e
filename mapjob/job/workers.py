"""What Ray's workers do for a run, slice by slice; the first of it: units that are new or changed get their ids."""

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from mapjob.job.prepare import Job
from mapjob.pipeline.progress import Events
from mapjob.pipeline.stages import Todo
from mapjob.scoring.reader_families import RECORDS, records_columns

T = TypeVar("T")

# A graph of its own for each slice of so many units: Ray Data's driver holds memory per unit until its graph ends.
UNITS_PER_PASS = 2_000
KEEP_EVERY_S = 60.0


def name_units(job: Job, ids: dict[int, str], cpus: float, gpus: float) -> Job:
    """The job with an id for every unit: workers read those that have none, and put their records.

    ids: by index of the unit, of those that are named by now; grows. What is known is written down at times, and at the
    end. Raises as `graph.identify` does.
    """
    from mapjob.pipeline import graph  # Ray is slow to import
    from mapjob.pipeline.progress import ScoringProgress

    plan, records = job.plan.with_ids(ids), records_columns(job.plan.corpus)
    todo = [Todo(replace(plan.units[index], id=str(index)), (RECORDS,)) for index in plan.unnamed]
    job.store.declare(records.fingerprint, records.identity)
    num_rows, written_at = sum(item.unit.num_rows for item in todo), time.monotonic()
    with ScoringProgress("reading", len(todo), num_rows, Events(), noun="rows") as progress:
        for part in slices(todo):
            for receipt in graph.identify(job.config, plan.corpus, records, part, cpus, gpus):
                ids[int(receipt.unit_id)] = receipt.named
                progress.add(receipt)
            if time.monotonic() - written_at > KEEP_EVERY_S:
                plan.with_ids(ids).keep(job.config.output.path)
                written_at = time.monotonic()
    plan = plan.with_ids(ids)
    plan.keep(job.config.output.path)
    return replace(job, plan=plan)


def slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """So many at a time that a graph of theirs leaves no memory behind."""
    for start in range(0, len(items), UNITS_PER_PASS):
        part = items[start : start + UNITS_PER_PASS]
        yield part
        if len(part) == UNITS_PER_PASS:
            gc.collect()  # a finished graph holds itself in reference cycles

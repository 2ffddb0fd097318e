"""A whole run in this process without Ray: the stages of its graph one after the other, then ranking, publishing."""

import pyarrow as pa

from mapjob.config import Config
from mapjob.pipeline.actors import ReadAndEncode, ScorerActor
from mapjob.pipeline.attempts import Attempts
from mapjob.pipeline.stages import Commit, Todo
from mapjob.prepare import Job, prepare


def score_all(config: Config, code_allowed: bool = False) -> Job:
    """Every stage of the graph, one after the other, over every unit of the corpus, into the run's score store."""
    job = prepare(config, code_allowed=code_allowed)
    attempts = Attempts()
    actors = [ScorerActor([spec], "auto", 0, attempts) for spec in job.scorers]
    stages = [
        ReadAndEncode(job.plan.corpus, job.scorers, attempts),
        *actors,
        Commit(config.output, job.records, job.scorers),
    ]
    for unit in job.plan.units:
        block = pa.Table.from_pylist([Todo(unit, tuple(job.families)).row])
        for stage in stages:
            block = stage(block)
    return job

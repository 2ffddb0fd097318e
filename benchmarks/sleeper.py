"""A stand-in for a model: a scorer that takes a fixed time per unit and logs on which node it ran."""

import json
import os
import time

import pyarrow as pa
import ray

from benchmarks.hash_scorer import HashScorer
from mapjob.pipeline.stages import Todo

# Inherited by the processes of the nodes.
SECONDS, LOG = "MAPJOB_BENCHMARK_SECONDS", "MAPJOB_BENCHMARK_LOG"


class Sleeper(HashScorer):
    """Sleeps SECONDS, scores by a hash of the tokens, and appends a line to the file LOG."""

    def __call__(self, block: pa.Table) -> pa.Table:
        start = time.time()
        time.sleep(float(os.environ[SECONDS]))
        columns = super().__call__(block)
        done = {"scorer": self._specs[0].name, "start": start, "end": time.time(), "actor": os.getpid()}
        done |= {"node": ray.get_runtime_context().get_node_id(), "unit": Todo.of(block).unit.id}
        with open(os.environ[LOG], "a", encoding="utf-8") as log:
            log.write(json.dumps(done) + "\n")  # one write per line, so that lines do not mix
        return columns

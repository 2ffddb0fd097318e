"""The actor that holds a model: a thin shell around a scorer."""

import time

import pyarrow as pa
import torch

from mapjob.pipeline.stages import Todo, tokens_column, with_columns
from mapjob.scoring.encode import from_table
from mapjob.scoring.scorers import Scorer
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.tables import from_ipc


class ScorerActor:
    """unit with token ids -> unit with the scorer's columns; passes units by that do not lack them."""

    def __init__(self, spec: ScorerSpec, tokens_per_batch: int | None, num_threads: int | None):
        if num_threads:
            torch.set_num_threads(num_threads)
        self._spec, self._scorer = spec, Scorer(spec, tokens_per_batch)
        self._clock = time.process_time if self._scorer.device.type == "cpu" else time.monotonic

    def __call__(self, block: pa.Table) -> pa.Table:
        scored = None
        if self._spec.name in Todo.of(block).missing:
            start = self._clock()
            result = self._scorer.score(from_table(from_ipc(block[tokens_column(self._spec.encoding.key)][0].as_buffer())))
            cost = {"tokens": str(result.num_tokens), "model_s": str(self._clock() - start)}
            scored = result.table.replace_schema_metadata(cost)
        return with_columns(block, {self._spec.name: scored})

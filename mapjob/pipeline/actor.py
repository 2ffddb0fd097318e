"""The actor that holds a model: a thin shell around a scorer."""

import time

import pyarrow as pa
import torch

from mapjob.pipeline.stages import Todo, built, tokens_column, with_columns
from mapjob.scoring.encode import from_table
from mapjob.scoring.scorers import Scorer
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.tables import from_ipc


class ScorerActor:
    """unit with token ids -> unit with the scorer's columns; passes units by that do not lack them."""

    def __init__(self, spec: ScorerSpec, tokens_per_batch: int | None, num_threads: int | None):
        if num_threads:
            torch.set_num_threads(num_threads)
        self._spec = spec
        self._scorer = built(lambda: Scorer(spec, tokens_per_batch))

    def __call__(self, block: pa.Table) -> pa.Table:
        if self._spec.name not in Todo.of(block).missing:
            return with_columns(block, {self._spec.name: None})
        scorer = self._scorer()
        # On CPU the pools share the cores, so only processor time says what a model took.
        clock = time.process_time if scorer.device.type == "cpu" else time.monotonic
        start = clock()
        result = scorer.score(from_table(from_ipc(block[tokens_column(self._spec.encoding.key)][0].as_buffer())))
        cost = {"tokens": str(result.num_tokens), "model_s": str(clock() - start)}
        return with_columns(block, {self._spec.name: result.table.replace_schema_metadata(cost)})

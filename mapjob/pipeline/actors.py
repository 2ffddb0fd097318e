"""The actors that hold tokenizers and models: thin shells around the reader, the encoders and the scorers."""

import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import pyarrow as pa
import torch

from mapjob.corpus.identity import identity_table
from mapjob.corpus.plan import Corpus, read_unit
from mapjob.corpus.reader import read_records
from mapjob.errors import MapjobError
from mapjob.pipeline.stages import RECORDS, Todo, tokens_column, with_columns
from mapjob.scoring.encode import Encoder, from_table, to_table
from mapjob.scoring.models import default_device, load_model
from mapjob.scoring.scorers import Scorer
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.tables import from_ipc

T = TypeVar("T")


class ReadAndEncode:
    """unit -> its records' identity, and one encoding for each encoding spec among the scorers that it lacks."""

    def __init__(self, corpus: Corpus, scorers: Sequence[ScorerSpec]):
        self._corpus, self._scorers = corpus, scorers
        specs = {s.encoding.key: s.encoding for s in scorers}
        self._encoders = built(lambda: {key: Encoder(spec, corpus.spec) for key, spec in specs.items()})

    def __call__(self, block: pa.Table) -> pa.Table:
        todo, corpus = Todo.of(block), self._corpus
        table = read_unit(todo.unit, corpus.own_columns)
        records = read_records(table, corpus.spec, corpus.columns)
        wanted = {s.encoding.key for s in self._scorers if s.name in todo.missing}
        columns = {RECORDS: identity_table(table, records, corpus.columns) if RECORDS in todo.missing else None}
        for key, encoder in self._encoders().items():
            columns[tokens_column(key)] = to_table(encoder.encode(records)) if key in wanted else None
        return with_columns(block, columns)


class ScorerActor:
    """unit with token ids -> unit with the columns of scorers that share a model; none for what it does not lack."""

    def __init__(self, specs: Sequence[ScorerSpec], tokens_per_batch: int | Literal["auto"], num_gpus: float):
        if not num_gpus:
            torch.set_num_threads(1)  # a CPU pool has an actor a core, so each computes on one
        elif num_gpus < 1:
            torch.cuda.set_per_process_memory_fraction(num_gpus)  # Ray's fractions keep no memory apart
        self._scorers = built(lambda: _scorers(specs, tokens_per_batch, spread=num_gpus > 1))

    def __call__(self, block: pa.Table) -> pa.Table:
        missing = Todo.of(block).missing
        return with_columns(block, {s.spec.name: _score(s, block) for s in self._scorers() if s.spec.name in missing})


def _scorers(specs: Sequence[ScorerSpec], tokens_per_batch: int | Literal["auto"], spread: bool) -> list[Scorer]:
    device = default_device()
    model = load_model(specs, device, spread)
    return [Scorer(spec, tokens_per_batch, device, model) for spec in specs]


def _score(scorer: Scorer, block: pa.Table) -> pa.Table:
    # On CPU the pools share the cores, so only processor time says what a model took.
    clock = time.process_time if scorer.device.type == "cpu" else time.monotonic
    start = clock()
    result = scorer.score(from_table(from_ipc(block[tokens_column(scorer.spec.encoding.key)][0].as_buffer())))
    cost = {"tokens": str(result.num_tokens), "model_s": str(clock() - start), "engine": str(scorer)}
    return result.table.replace_schema_metadata(cost)


def built(build: Callable[[], T]) -> Callable[[], T]:
    """Build now; a MapjobError comes at the first use. Ray keeps only the text of what a constructor raises."""
    try:
        result = build()
    except MapjobError as error:
        refusal = error

        def refused() -> T:
            raise refusal

        return refused
    return lambda: result

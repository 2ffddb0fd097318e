"""The actors that hold tokenizers and models: thin shells around the reader, the encoders and the scorers."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import pyarrow as pa
import torch

from mapjob.arrays import I64
from mapjob.corpus.plan import Corpus, error_of_change, read_unmarked
from mapjob.corpus.reader import RowReader, read_records
from mapjob.corpus.records import Record
from mapjob.corpus.units import Unit
from mapjob.errors import InputError, RowError
from mapjob.pipeline.attempts import DEATHS_OF_A_UNIT, Attempts, SharedAttempts, bisect_crashes
from mapjob.pipeline.stages import KEYS, Cost, Receipt, Todo, tokens_column, with_columns, with_cost
from mapjob.scoring.costs import peak_flop_per_s, token_cost
from mapjob.scoring.encode import Encoded, Encoder, from_table, to_table
from mapjob.scoring.reader_families import (
    EDIT_DISTANCE,
    NEAR_DUPLICATES,
    DerivedColumns,
    distance_table,
    identify,
    identity_table,
    signature_table,
    unit_id,
)
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.score_store import ScoreStore
from mapjob.store.tables import from_ipc

if TYPE_CHECKING:
    from mapjob.scoring.scorers import Scorer

T = TypeVar("T")


class Identify:
    """unit without an id -> its records, in the score store under the id that they give it; a receipt has that id."""

    def __init__(self, corpus: Corpus, records: DerivedColumns, output_url: str, attempts: Attempts | SharedAttempts):
        self._corpus, self._attempts = corpus, attempts
        self._reader = RowReader(corpus.own_columns)
        self._fingerprint, self._store = records.fingerprint, ScoreStore(output_url)

    def __call__(self, block: pa.Table) -> pa.Table:
        unit = Todo.of(block).unit
        with reading(unit, self._attempts):
            named, table = identify(unit, self._corpus, self._reader)
        self._store.commit(self._fingerprint, named, table)
        return pa.Table.from_pylist([Receipt(unit.id, unit.num_rows, {}, named=named).row])


@contextmanager
def reading(unit: Unit, attempts: Attempts | SharedAttempts) -> Iterator[None]:
    """A block that reads a unit. Raises InputError if doing so has ended the process before."""
    deaths, _ = attempts.begin(("read", unit.id))
    if deaths >= DEATHS_OF_A_UNIT:
        what = f"reading these rows ended the process {deaths} times"
        raise InputError(what, unit.where, "replace the file or take it out of input.path")
    yield
    attempts.end(("read", unit.id))


class ReadAndEncode:
    """unit -> the columns it lacks that need no model, and one encoding per encoding spec of the scorers it lacks."""

    def __init__(
        self,
        corpus: Corpus,
        derived: Sequence[DerivedColumns],
        scorers: Sequence[ScorerSpec],
        attempts: Attempts | SharedAttempts,
    ):
        self._corpus, self._derived, self._scorers, self._attempts = corpus, derived, scorers, attempts
        self._reader = RowReader(corpus.own_columns)
        encodings = (spec.encoding for spec in (*derived, *scorers) if spec.encoding is not None)
        specs = {encoding.key: encoding for encoding in encodings}
        self._encoders = defer_error(lambda: {key: Encoder(spec, corpus) for key, spec in specs.items()})

    def __call__(self, block: pa.Table) -> pa.Table:
        todo = Todo.of(block)
        with reading(todo.unit, self._attempts):
            records, keys = self._read(todo.unit)
        rows = self._rows_to_encode(todo)
        encoded = {
            key: self._encode(encoder, todo.unit, [records[row] for row in rows[key]])
            for key, encoder in self._encoders().items()
            if key in rows
        }
        columns: dict[str, pa.Table | None] = {KEYS: keys}
        for spec in self._derived:
            if spec.name == EDIT_DISTANCE and spec.name in todo.missing:
                assert spec.encoding is not None
                columns[spec.name] = distance_table(from_table(encoded[spec.encoding.key]))
            elif spec.name == NEAR_DUPLICATES and spec.name in todo.missing:
                columns[spec.name] = signature_table(records)
        for key in {s.encoding.key: None for s in self._scorers}:
            tokens = encoded.get(key)
            columns[tokens_column(key)] = None if tokens is None else tokens.add_column(0, "row", pa.array(rows[key]))
        return with_columns(block, columns)

    def _read(self, unit: Unit) -> tuple[list[Record | RowError], pa.Table]:
        """The records and their row keys. Raises IncompleteError if these rows did not give the unit its id."""
        corpus = self._corpus
        table = read_unmarked(unit, self._reader)
        records = read_records(table, corpus.reading, corpus.columns)
        identity = identity_table(table, records, corpus.columns)
        if unit_id(identity) != unit.id:
            raise error_of_change(unit)
        return records, identity.select(["row_key"])

    def _rows_to_encode(self, todo: Todo) -> dict[str, I64]:
        """Rows by key of the encoding that some missing columns need."""
        rows: dict[str, I64] = {}
        for spec in (*self._derived, *self._scorers):
            if spec.name in todo.missing and spec.encoding is not None:
                before = rows.get(spec.encoding.key, np.zeros(0, np.int64))
                rows[spec.encoding.key] = np.union1d(before, todo.rows_to_score(spec.name))
        return rows

    def _encode(self, encoder: Encoder, unit: Unit, records: Sequence[Record | RowError]) -> pa.Table:
        piece = ("encode", encoder.spec.key, unit.id)
        return bisect_crashes(self._attempts, piece, records, lambda part: to_table(encoder.encode(part)))


class ScorerActor:
    """unit with token ids -> unit with the columns of scorers that share a model; none for what it does not lack."""

    def __init__(
        self,
        specs: Sequence[ScorerSpec],
        tokens_per_batch: int | Literal["auto"],
        num_gpus: float,
        attempts: Attempts | SharedAttempts,
    ):
        limit_to_share(num_gpus)
        self._attempts, self._num_gpus = attempts, num_gpus
        self._scorers = defer_error(lambda: _scorers(specs, tokens_per_batch, spread=num_gpus > 1))

    def __call__(self, block: pa.Table) -> pa.Table:
        todo = Todo.of(block)
        wanted = [scorer for scorer in self._scorers() if scorer.spec.name in todo.missing]
        columns = {s.spec.name: self._score(s, todo, block) for s in wanted}
        for scorer in wanted:
            # Weights on CPU may be pages of their file: what is written over it would be in these columns.
            scorer.spec.files.check_unchanged(scorer.spec.name)
        return with_columns(block, columns)

    def _score(self, scorer: "Scorer", todo: Todo, block: pa.Table) -> pa.Table:
        tokens = from_ipc(block[tokens_column(scorer.spec.encoding.key)][0].as_buffer())
        rows = todo.rows_to_score(scorer.spec.name)
        if len(rows) < tokens.num_rows:
            tokens = tokens.take(pa.array(np.searchsorted(tokens["row"].to_numpy(), rows)))
        piece = (scorer.spec.name, todo.unit.id)
        return bisect_crashes(
            self._attempts, piece, from_table(tokens), lambda part: _score_with_cost(scorer, part, self._num_gpus)
        )


def limit_to_share(num_gpus: float) -> None:
    """Keep this process to the share of the machine that Ray gave it, since Ray itself limits nothing."""
    if not num_gpus:
        torch.set_num_threads(1)  # a CPU pool has one actor per core, so each computes on one
    elif num_gpus < 1:
        torch.cuda.set_per_process_memory_fraction(num_gpus)


def _scorers(specs: Sequence[ScorerSpec], tokens_per_batch: int | Literal["auto"], spread: bool) -> "list[Scorer]":
    # Slow to import, and neither the driver nor an encoder needs transformers' models.
    from mapjob.scoring.models import default_device, load_model
    from mapjob.scoring.scorers import make_scorer

    first, device = specs[0], default_device()
    adapters = {spec.name: spec.files.adapter for spec in specs if spec.files.adapter}
    model = load_model(first.files, first.kind, first.name, device, adapters, spread)
    return [make_scorer(spec, tokens_per_batch, device, model) for spec in specs]


def _score_with_cost(scorer: "Scorer", records: Sequence[Encoded | RowError], num_gpus: float) -> pa.Table:
    """The scorer's columns of some rows, with what they cost."""
    # On CPU the pools share the cores, so only processor time says what a model took.
    clock = time.process_time if scorer.device.type == "cpu" else time.monotonic
    start = clock()
    try:
        scored = scorer.score(records)
    except torch.AcceleratorError as error:
        # The device's context is lost, and with it all that this process has there; Ray starts a new process.
        print(f"the device failed, this worker ends: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    model_s, files = clock() - start, scorer.spec.files
    peak_flop = 0.0
    if scorer.device.type == "cuda":
        peak_flop = (
            (peak_flop_per_s(torch.cuda.get_device_name(scorer.device), files.dtype) or 0.0) * num_gpus * model_s
        )
    flop = 2.0 * token_cost(files) * scored.num_tokens
    return with_cost(scored.table, Cost(scored.num_tokens, model_s, flop, peak_flop, str(scorer)))


def defer_error(build: Callable[[], T]) -> Callable[[], T]:
    """Build now; what that raises is raised at the first use. Ray keeps only the text of what a constructor raises, and
    takes it for the end of a worker, which another one might survive.
    """
    try:
        result = build()
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001
        refusal = error

        def refused() -> T:
            raise refusal

        return refused
    return lambda: result

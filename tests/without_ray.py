"""`mapjob run` in this process: `job.run` itself, or its scoring alone, with the stages one after the other, no Ray."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from mapjob.config.run import Config
from mapjob.corpus.plan import Corpus
from mapjob.job.prepare import Job, name_units_here, prepare
from mapjob.job.run import run_job
from mapjob.pipeline import cluster, graph
from mapjob.pipeline.actors import Identify, ReadAndEncode, ScorerActor
from mapjob.pipeline.attempts import Attempts
from mapjob.pipeline.stages import Commit, Receipt, Todo
from mapjob.scoring.reader_families import DerivedColumns
from mapjob.scoring.spec import ScorerSpec

# What is loaded or scored once is there for every later run of this process, and of its forks.
_stages: dict[tuple[str, ...], list[Any]] = {}
_scored: dict[tuple[str, ...], pa.Table] = {}


@contextmanager
def without_ray() -> Iterator[None]:
    """Inside, `job.run` scores in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "connect", lambda address: (1.0, 0.0))
        patch.setattr(graph, "score", score)
        patch.setattr(graph, "identify", identify)
        yield


def run(config: Config, limit: int | None = None) -> dict[str, Any]:
    """`job.run` without Ray."""
    with without_ray():
        return run_job(config, limit)


def score_all(config: Config, code_allowed: bool = False) -> Job:
    """The scoring of a run alone: every unit of the corpus into the score store."""
    job = name_units_here(prepare(config, code_allowed=code_allowed))
    todo = job.todo()
    for _ in score(config, job.plan.corpus, job.derived, job.scorers, todo):
        pass
    return job


def score(
    config: Config,
    corpus: Corpus,
    derived: Sequence[DerivedColumns],
    scorers: Sequence[ScorerSpec],
    todo: Sequence[Todo],
    *_: float,
) -> Iterator[Receipt]:
    """As `graph.score`: every unit through every stage, and its receipt when it is committed."""
    key = (repr(corpus), *(spec.fingerprint for spec in (*derived, *scorers)))
    if key not in _stages:
        models = [ScorerActor([one], "auto", 0, Attempts()) for one in scorers]
        _stages[key] = [ReadAndEncode(corpus, derived, scorers, Attempts()), *models]
    read, *models = _stages[key]
    read._attempts = Attempts()  # a run has its own: what broke an earlier one killed nobody
    commit = Commit(config.output.path, derived, scorers)
    for item in todo:
        block = read(pa.Table.from_pylist([item.row]))
        name = (*key, item.unit.id, *item.missing)
        if name in _scored and not item.stored:
            block = _scored[name]
        else:
            for model in models:
                block = model(block)
            if not item.stored:
                _scored[name] = block
        yield Receipt.of(commit(block).to_pylist()[0])


def identify(
    config: Config, corpus: Corpus, records: DerivedColumns, todo: Sequence[Todo], *_: float
) -> Iterator[Receipt]:
    """As `graph.identify`."""
    read = Identify(corpus, records, config.output.path, Attempts())
    for item in todo:
        yield Receipt.of(read(pa.Table.from_pylist([item.row])).to_pylist()[0])


if __name__ == "__main__":  # `python -m tests.without_ray run run.yaml`: the program, in a process of its own
    from mapjob.cli.app import main

    with without_ray():
        main()

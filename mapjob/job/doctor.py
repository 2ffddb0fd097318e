"""Can this machine, its cluster, its storage and its models run the job? One finding per line; no score is kept."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch

from mapjob.config.run import Config
from mapjob.corpus.plan import read_unit
from mapjob.corpus.reader import RowReader, read_records
from mapjob.errors import MapjobError
from mapjob.job.prepare import Job, prepare
from mapjob.scoring.architecture import check_architecture
from mapjob.scoring.encode import Encoded, Encoder
from mapjob.scoring.models import multiplies_bfloat16
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.storage import Storage

NUM_ROWS = 8


@dataclass(frozen=True)
class Finding:
    subject: str
    says: str
    error: MapjobError | None = None


def examine(config: Config, code_allowed: bool = False) -> Iterator[Finding]:
    """Every finding as it is made; a check that depends on one that failed is left out."""
    names = ("mapjob", "ray", "torch", "transformers", "pyarrow")
    yield Finding("versions", ", ".join(f"{name} {version(name)}" for name in names))
    yield from _devices()
    yield _check("Ray", lambda: _check_cluster(config))
    jobs: list[Job] = []
    yield _check("corpus and models", lambda: _check_corpus(config, code_allowed, jobs))
    yield _check("storage", lambda: _check_storage(config))
    for job in jobs:
        for spec in job.scorers:
            yield _check(spec.name, lambda spec=spec, job=job: _compare_batches(spec, job))


def _check(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, check())
    except MapjobError as error:
        return Finding(subject, error.what, error)


def _devices() -> Iterator[Finding]:
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32 only"
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        yield Finding(f"GPU {index}", f"{properties.name}, {memory}, {dtype}")
    if not torch.cuda.is_available():
        bfloat16 = "bfloat16" if multiplies_bfloat16() else "bfloat16 computed in float32"
        yield Finding("CPU", f"no GPU; {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, {bfloat16}")


def _check_cluster(config: Config) -> str:
    from mapjob.pipeline.cluster import connect

    cpus, gpus = connect(config.execution.address)
    where = config.execution.address or os.environ.get("RAY_ADDRESS") or "a local Ray"
    otherwise = "a token of its own" if config.execution.address is None else "no token is asked for"
    token = "with a token" if os.environ.get("RAY_AUTH_MODE") == "token" else otherwise
    return f"{where}: {cpus:g} CPUs, {gpus:g} GPUs, {token}"


def _check_corpus(config: Config, code_allowed: bool, jobs: list[Job]) -> str:
    job = prepare(config, code_allowed=code_allowed)
    for scorer in job.scorers:
        check_architecture(scorer.files, scorer.kind, scorer.name)
    jobs.append(job)
    models = ", ".join(f"{s.name} {s.files.architecture}" for s in job.scorers)
    return f"{job.plan.num_rows:,} rows in {len(job.plan.units)} units; {models}"


def _check_storage(config: Config) -> str:
    Storage(config.output.path).check_conditions()
    return f"{config.output.path}: supports create-only writes"


def _compare_batches(spec: ScorerSpec, job: Job) -> str:
    """Load the model, and score a few rows of the corpus one by one and as one batch."""
    corpus, unit = job.plan.corpus, job.plan.units[0]
    table = read_unit(unit, RowReader(corpus.own_columns)).slice(0, 64)
    encoded = Encoder(spec.encoding, corpus).encode(read_records(table, corpus.reading, corpus.columns))
    rows = [record for record in encoded if isinstance(record, Encoded)][:NUM_ROWS]
    scorer = make_scorer(spec, job.config.execution.tokens_per_batch)
    together = scorer.score(rows).table[spec.kind].to_pylist()
    alone = [scorer.score([row]).table[spec.kind].to_pylist()[0] for row in rows]
    drift = max((np.abs(np.subtract(one, other)).max() for one, other in zip(alone, together)), default=0.0)
    engine = str(scorer).partition(": ")[2]
    return f"{engine}; {len(rows)} rows alone and in one batch differ by at most {drift:.2g}"

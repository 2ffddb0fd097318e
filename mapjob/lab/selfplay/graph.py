"""Units of prompts through a pool of engines on Ray: an actor answers a unit, puts its rows and returns a receipt."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from mapjob.config.run import Execution
from mapjob.corpus.units import Unit
from mapjob.errors import ConfigError
from mapjob.lab.selfplay.folder import GeneratedFolder
from mapjob.lab.selfplay.prompts import Prompt, prompt_table, prompts_of
from mapjob.lab.selfplay.requests import Engine
from mapjob.lab.selfplay.server import ServerEngine
from mapjob.lab.selfplay.tasks import TaskSpec
from mapjob.pipeline.actors import defer_error, limit_to_share
from mapjob.pipeline.graph import begin, receive, stage
from mapjob.pipeline.pools import PoolSize, scorer_pools
from mapjob.pipeline.stages import Cost, Receipt, Todo
from mapjob.scoring.costs import token_cost
from mapjob.store.tables import from_ipc, to_ipc

NAME = "policy"


class Worker:
    """Unit of prompts -> receipt; the unit's rows are stored by then."""

    def __init__(self, spec: TaskSpec, folder: GeneratedFolder, num_gpus: float):
        limit_to_share(num_gpus)
        self._spec, self._folder = spec, folder
        self._engine = defer_error(lambda: engine_of(spec))

    def __call__(self, block: pa.Table) -> pa.Table:
        unit, start = Todo.of(block).unit, time.monotonic()
        result = self._spec.do(self._engine(), prompts_of(from_ipc(block["prompts"][0].as_buffer())))
        self._folder.commit(unit.id, result)
        reasons = dict(Counter(reason for _, reason, _ in result.refused))
        cost = Cost(result.counts["tokens"], time.monotonic() - start, 0.0, 0.0, str(self._engine()))
        return pa.Table.from_pylist([Receipt(unit.id, unit.num_rows, {NAME: reasons}, {NAME: cost}).row])


def engine_of(spec: TaskSpec) -> Engine:
    if spec.files is None:
        return ServerEngine(spec.generation)
    from mapjob.lab.selfplay.local import LocalEngine  # slow to import, and a server's worker needs no model

    return LocalEngine(spec.files, spec.generation, spec.style)


def work_through(
    spec: TaskSpec,
    folder: GeneratedFolder,
    todo: Sequence[tuple[Unit, Sequence[Prompt]]],
    execution: Execution,
    cpus: float,
    gpus: float,
) -> Iterator[Receipt]:
    """A receipt per unit, as it is stored. Safe to run again, and beside another run. Raises as `score` does."""
    items = [Todo(unit, (NAME,)) for unit, _ in todo]
    rows = [{**i.row, "prompts": to_ipc(prompt_table(p, spec.style))} for i, (_, p) in zip(items, todo)]
    pool = _pool(spec, execution, cpus, gpus, len(rows))
    arguments: tuple[Any, ...] = (spec, folder, pool.num_gpus)
    yield from receive(stage(begin(rows), Worker, arguments, pool), items, execution.stall_after_s, (cpus, gpus))


def _pool(spec: TaskSpec, execution: Execution, cpus: float, gpus: float, num_units: int) -> PoolSize:
    if spec.files is None:  # the work is elsewhere
        return PoolSize(1, 1, min(1.0, cpus / 2), 0)
    costs = {NAME: float(token_cost(spec.files))}
    pool = scorer_pools(costs, execution.pools, cpus, gpus, num_units, execution.is_cluster)[NAME]
    if pool.num_gpus > 1:
        raise ConfigError(
            f"an actor that generates takes one GPU, and {pool.num_gpus:g} are asked for",
            f"execution.pools.{NAME}.num_gpus",
            "serve a model that needs several, and use generation.engine: openai",
        )
    return pool

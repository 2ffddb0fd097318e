"""The Ray Data graph, top to bottom: units in, receipts out."""

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.exceptions import RayError

from mapjob.config.run import Config
from mapjob.corpus.plan import Corpus
from mapjob.errors import IncompleteError
from mapjob.pipeline.actors import Identify, ReadAndEncode, ScorerActor
from mapjob.pipeline.attempts import SharedAttempts
from mapjob.pipeline.cluster import explain
from mapjob.pipeline.pools import PoolSize, commit_pool, encode_pool, scorer_pools
from mapjob.pipeline.stages import Commit, Receipt, Todo, by_base
from mapjob.pipeline.watchdog import Watchdog
from mapjob.scoring.costs import token_cost
from mapjob.scoring.reader_families import DerivedColumns
from mapjob.scoring.spec import ScorerSpec

LONGEST_END_S = 15.0  # of a pass that ends early; Ray Data waits seconds for what runs


def score(
    config: Config,
    corpus: Corpus,
    derived: Sequence[DerivedColumns],
    scorers: Sequence[ScorerSpec],
    todo: Sequence[Todo],
    cpus: float,
    gpus: float,
) -> Iterator[Receipt]:
    """Stream every unit of `todo` through the pools of `scorers`; each unit commits by itself.

    Yields a receipt as a unit is committed. Safe to run again, and beside another run of the same plan. Raises as
    `receive` does; what is committed stays.
    """
    shared = by_base(scorers)
    costs = {specs[0].name: float(sum(token_cost(spec.files) for spec in specs)) for specs in shared}
    pools = scorer_pools(costs, config.execution.pools, cpus, gpus, len(todo), config.execution.is_cluster)
    attempts = SharedAttempts()
    units = begin([item.row for item in todo])
    units = stage(units, ReadAndEncode, (corpus, derived, scorers, attempts), encode_pool(cpus, gpus))
    for specs in shared:
        pool = pools[specs[0].name]
        units = stage(units, ScorerActor, (specs, config.execution.tokens_per_batch, pool.num_gpus, attempts), pool)
    receipts = stage(units, Commit, (config.output.path, derived, scorers), commit_pool(cpus))
    yield from receive(receipts, todo, config.execution.stall_after_s, (cpus, gpus))


def identify(
    config: Config, corpus: Corpus, records: DerivedColumns, todo: Sequence[Todo], cpus: float, gpus: float
) -> Iterator[Receipt]:
    """Read every unit of `todo` for its id; its records are stored by then. Yields and raises as `score` does."""
    units = begin([item.row for item in todo])
    pool = PoolSize(1, max(1, min(int(cpus), len(todo))), 1, 0)
    receipts = stage(units, Identify, (corpus, records, config.output.path, SharedAttempts()), pool)
    yield from receive(receipts, todo, config.execution.stall_after_s, (cpus, gpus))


def receive(
    receipts: ray.data.Dataset, todo: Sequence[Todo], stall_after_s: float, size: tuple[float, float]
) -> Iterator[Receipt]:
    """Run the graph: a receipt as each unit of `todo` comes back. size: (CPUs, GPUs) that its pools were made for.

    Raises the MapjobError of a worker, and IncompleteError when the cluster fails or stalls: ClusterShrunk if smaller
    pools could go on. In any thread: another one waits inside Ray, where neither a signal nor a stall would reach it.
    """
    watchdog, arrived, ended = Watchdog(todo, stall_after_s, size), SimpleQueue(), threading.Event()
    puller = threading.Thread(target=_pull, args=(receipts, arrived, ended), daemon=True)
    puller.start()
    try:
        while True:
            try:
                row = arrived.get(timeout=watchdog.look_every_s)
            except Empty:
                watchdog.look()
                continue
            if row is None:
                return
            if isinstance(row, BaseException):
                raise row
            receipt = Receipt.of(row)
            watchdog.mark_done(receipt.unit_id)
            yield receipt
    except RayError as error:
        if (meant := explain(error)) is None:
            raise
        raise meant from error
    finally:
        ended.set()
        puller.join(LONGEST_END_S)


def _pull(receipts: ray.data.Dataset, arrived: SimpleQueue, ended: threading.Event) -> None:
    """Put the rows of the receipts, and last None or what was raised."""
    _ended.set(ended)
    receipts.context.custom_execution_callback_classes.append(_EndOfPass)
    try:
        for row in receipts.iter_rows():
            arrived.put(row)
        arrived.put(None)
    except BaseException as error:  # noqa: BLE001 - the other thread raises it
        arrived.put(error)


_ended: ContextVar[threading.Event] = ContextVar("ended")


class _EndOfPass(ExecutionCallback):
    """Ends the loop of Ray Data, and with it the actors of its graph, when a pass ends early."""

    def __init__(self) -> None:
        self._ended = _ended.get()

    def on_execution_step(self, executor: object) -> None:
        if self._ended.is_set():
            raise IncompleteError("this pass has ended", "Ray Data", "see why it ended")


def begin(rows: Sequence[dict[str, Any]]) -> ray.data.Dataset:
    """The units, one per block, for the first stage: a few thousand at most, since Ray Data's driver keeps some memory
    per unit until the graph ends. What is set here holds for this graph alone: a notebook has others.
    """
    units = ray.data.from_items(list(rows), override_num_blocks=len(rows))
    context = units.context
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # byte: what comes out of a stage is a block for each row
    context.raise_original_map_exception = True  # so that a worker's MapjobError arrives whole
    context.execution_no_progress_timeout_s = -1  # waiting for nodes is no failure
    return units


def stage(units: ray.data.Dataset, actor: type, arguments: tuple, pool: PoolSize) -> ray.data.Dataset:
    """The units through a pool of actors, one per call and one per block."""
    with warnings.catch_warnings():
        # ray_remote_args_fn is the one way to finite restarts in Ray 2.57 to 2.63, and warns since 2.60.
        warnings.filterwarnings("ignore", message=".*ray_remote_args_fn.*")
        return units.map_batches(
            actor, fn_constructor_args=arguments, batch_size=1, batch_format="pyarrow", **pool.ray_options
        )

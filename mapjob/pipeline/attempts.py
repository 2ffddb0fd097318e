"""Rows that crash the process that works on them: found by bisecting the unit, and listed with their reason.

A worker that dies loses its memory, so what it has begun is noted outside of it, in an actor of the run.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mapjob.errors import Reason, RowError
from mapjob.store.tables import from_ipc, to_ipc

T = TypeVar("T")

# One death may be the machine's fault. In a unit that died twice, one death of a half is enough.
DEATHS_OF_A_UNIT = DEATHS_OF_A_ROW = 2
DEATHS_OF_A_HALF = 1
KILLED = RowError(Reason.KILLED_PROCESS, "the worker's process died whenever it came to this row")

Piece = tuple[str | int, ...]  # names a piece of work, the same after a restart: what is done, unit, start, stop


class Attempts:
    """Pieces of work that were begun and not ended, and the results of parts of units that are being bisected."""

    def __init__(self) -> None:
        self._begun: Counter[Piece] = Counter()
        self._results: dict[Piece, bytes] = {}

    def begin(self, piece: Piece) -> tuple[int, bytes | None]:
        """(earlier attempts that never ended, the stored result of one that did)."""
        deaths = self._begun[piece]
        self._begun[piece] += 1
        return deaths, self._results.get(piece)

    def end(self, piece: Piece, result: bytes | None = None) -> None:
        del self._begun[piece]
        if result is not None:
            self._results[piece] = result


class SharedAttempts:
    """The Attempts of a run, for all of its workers, on the driver's node if that has room.

    If its node is lost it restarts empty: then a row that kills costs more restarts, and nothing else.
    """

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        keep = {"max_restarts": -1, "max_task_retries": -1}
        self._actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here, **keep)(Attempts).remote()

    def begin(self, piece: Piece) -> tuple[int, bytes | None]:
        return ray.get(self._actor.begin.remote(piece))

    def end(self, piece: Piece, result: bytes | None = None) -> None:
        ray.get(self._actor.end.remote(piece, result))


def bisect_crashes(
    attempts: Attempts | SharedAttempts,
    piece: Piece,
    rows: Sequence[T | RowError],
    work: Callable[[Sequence[T | RowError]], pa.Table],
) -> pa.Table:
    """`work(rows)`, a table with one row for each; rows that end the process become error rows.

    What earlier processes died of is cut in halves, down to the row. A half that was finished before a later one
    killed again is not done twice.
    """
    return pa.concat_tables(_bisect(attempts, piece, rows, work, 0, len(rows)))


def _bisect(
    attempts: Attempts | SharedAttempts, piece: Piece, rows: Sequence, work: Callable, start: int, stop: int
) -> list[pa.Table]:
    part = (*piece, start, stop)
    is_unit, is_row = (start, stop) == (0, len(rows)), stop - start == 1
    deaths, result = attempts.begin(part)
    if result is not None:
        return [from_ipc(result)]
    if deaths < (DEATHS_OF_A_UNIT if is_unit else DEATHS_OF_A_ROW if is_row else DEATHS_OF_A_HALF):
        table = work(rows[start:stop])
        attempts.end(part, None if is_unit else to_ipc(table))
        return [table]
    if is_row:
        return [work([KILLED])]
    middle = (start + stop) // 2
    halves = (start, middle), (middle, stop)
    return [table for half in halves for table in _bisect(attempts, piece, rows, work, *half)]

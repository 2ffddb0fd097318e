"""Programs on the pieces of a corpus as Ray tasks: with the results that `collective.Local` has in one process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray import ObjectRefGenerator
from ray.exceptions import GetTimeoutError, RayError

from mapjob.collective import Piece, Unanswered, pick_slices, run_until_asked
from mapjob.pipeline.cluster import LOOK_S, explain, heartbeat


class OnRay:
    """Handles are object references. A task depends on its arguments alone, so Ray makes again what a lost node held.

    Values that pieces send each other go from worker to worker; the driver sees references and small values.
    """

    def __init__(self) -> None:
        self._heartbeat = heartbeat()

    def run(self, program: Callable[..., Any], columns: Sequence[Sequence[Any]], *shared: Any) -> list[Any]:
        pieces = [*zip(*columns, strict=True)]
        work = ray.put((program, shared))
        known: list[Any] = []  # answers, the same for all pieces; None for what each of them received
        received: list[list[list[ray.ObjectRef]]] = [[] for _ in pieces]
        while True:
            streams = [
                _take_steps.remote(i, len(pieces), work, known, list(map(len, received[i])), len(piece), *piece, *refs)
                for i, piece in enumerate(pieces)
                for refs in [[ref for slices in received[i] for ref in slices]]
            ]
            heads = [self.get(self._next(stream)) for stream in streams]
            kind, _, by = heads[0]
            if kind == "done":
                return [self._next(stream) for stream in streams]
            if kind == "fold":
                known = [*known, (by([value for _, value, _ in heads]),)]
                continue
            slices = [list(self._rest(stream)) for stream in streams]
            known = [*known, None]
            for i, of_piece in enumerate(received):
                of_piece.append(pick_slices(slices, kind, i))

    def get(self, handle: Any) -> Any:
        """Raises the MapjobError of a task, and IncompleteError if the cluster fails."""
        while True:
            try:
                return ray.get(handle, timeout=LOOK_S)
            except GetTimeoutError:
                self._heartbeat.check()
            except RayError as error:
                if (meant := explain(error)) is None:
                    raise
                raise meant from None

    def _next(self, stream: ObjectRefGenerator) -> ray.ObjectRef:
        """Raises StopIteration at its end, and IncompleteError if the cluster fails."""
        while not ray.wait([stream], timeout=LOOK_S, fetch_local=False)[0]:
            self._heartbeat.check()
        return next(stream)

    def _rest(self, stream: ObjectRefGenerator) -> Iterator[ray.ObjectRef]:
        with suppress(StopIteration):
            while True:
                yield self._next(stream)


@ray.remote(num_returns="streaming", max_retries=3)
def _take_steps(
    index: int,
    num_pieces: int,
    work: tuple[Callable[..., Any], tuple[Any, ...]],
    known: list[Any],
    num_received: list[int],
    num_columns: int,
    *arguments: Any,
) -> Iterator[Any]:
    """Run a piece's program to its first question that is not answered: yields (kind, value, by), then slices, or what
    the program returns.
    """
    program, shared = work
    piece, slices = arguments[:num_columns], iter(arguments[num_columns:])
    lengths = iter(num_received)
    answers = [answer[0] if answer else [next(slices) for _ in range(next(lengths))] for answer in known]
    outcome = run_until_asked(Piece(index, num_pieces, answers), program, *piece, *shared)
    if isinstance(outcome, Unanswered):
        yield outcome.kind, outcome.value, outcome.by
        # Ray calls `send` of this generator, which `yield from` passes on to an iterator that has none.
        for of_piece in outcome.slices():  # noqa: UP028
            yield of_piece
    else:
        yield "done", None, None
        yield outcome

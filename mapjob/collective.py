"""Collective operations: one program runs on every piece of a corpus, and asks here for what only all pieces know.

As in MPI, every piece runs through the same steps in the same order; a step that depends on data depends on answers of
this module alone. By default one piece is the whole corpus (`Alone`), and every answer is about its own values. Of
several pieces, each runs its program from the start until the first question that is not answered yet (`Unanswered`);
who runs them (see `Pieces.run`) answers it with the values of all, and runs them again: programs keep no state, so that
they can run in any process, and a lost one runs again. Results are the same bits for every number of pieces as long as
what is folded is: whole numbers, exact sums, ends.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mapjob.arrays import I64, Bools

T = TypeVar("T")
P = TypeVar("P")

LEAST_BYTES = 128 << 10  # of what one piece sends to another: Ray passes less than 100 kB through its driver


Slices = Callable[[], Iterable[Any]]  # made only if they are needed


class Alone:
    """The corpus in one piece. index: of this piece; num_pieces: how many there are."""

    index, num_pieces = 0, 1

    def fold(self, value: Any, by: Callable[[list], T]) -> T:
        return by([value])

    def exchange(self, slices: Slices) -> list[Any]:
        return list(slices())

    def share(self, value: T | None) -> list[T]:
        return [] if value is None else [value]


class Unanswered(BaseException):
    """What a program asks all pieces. kind: fold (of values), exchange or share (of slices; the one is for all)."""

    def __init__(self, kind: str, value: Any = None, by: Callable[[list], Any] | None = None, slices: Slices = list):
        self.kind, self.value, self.by, self.slices = kind, value, by, slices


@dataclass
class Piece:
    """One of several pieces. answers: to the program's questions until now, in their order."""

    index: int
    num_pieces: int
    answers: list[Any] = field(default_factory=list)
    _num_asked: int = 0

    def _answer(self, question: Unanswered) -> Any:
        if self._num_asked == len(self.answers):
            raise question
        self._num_asked += 1
        return self.answers[self._num_asked - 1]

    def fold(self, value: Any, by: Callable[[list], T]) -> T:
        return self._answer(Unanswered("fold", value, by))

    def exchange(self, slices: Slices) -> list[Any]:
        return self._answer(Unanswered("exchange", slices=slices))

    def share(self, value: T | None) -> list[T]:
        return self._answer(Unanswered("share", slices=lambda: [] if value is None else [value]))


_alone = Alone()
_current: ContextVar[Alone | Piece] = ContextVar("piece", default=_alone)


@contextmanager
def on(piece: Alone | Piece) -> Iterator[None]:
    """The program inside runs on this piece."""
    token = _current.set(piece)
    try:
        yield
    finally:
        _current.reset(token)


def index() -> int:
    """Of this piece, in the order of the corpus."""
    return _current.get().index


def num_pieces() -> int:
    return _current.get().num_pieces


def fold(value: Any, by: Callable[[list], T]) -> T:
    """`by` of the values of all pieces, in their order. Values are small: they pass through the driver."""
    return _current.get().fold(value, by)


def total(value: P) -> P:
    """The sum over all pieces of a whole number, or of an array of them."""
    return fold(value, sum)


def before(value: int) -> int:
    """The sum over all pieces before this one."""
    return sum(fold(value, list)[: index()])


def is_any(values: npt.NDArray[np.bool_]) -> bool:
    """Whether any value of any piece is true."""
    return fold(bool(values.any()), any)


def ends(values: npt.NDArray) -> tuple[float, float]:
    """(lowest, highest) value of all pieces; (inf, -inf) if there is none."""
    low_high = (float(values.min()), float(values.max())) if len(values) else (np.inf, -np.inf)
    return fold(low_high, lambda parts: (min(low for low, _ in parts), max(high for _, high in parts)))


def exchange(slices: Callable[[], Iterable[T]]) -> list[T]:
    """Send the first slice to the first piece, and so on; returns what pieces sent here, in their order. Pieces beyond
    the slices are sent nothing. slices: called once, one after the other, so that none but one needs to be in memory.
    """
    return _current.get().exchange(slices)


def share(value: T | None) -> list[T]:
    """The values of all pieces that have one, in their order. They may be large: none passes through the driver."""
    return _current.get().share(value)


def num_receivers(num_bytes: int) -> int:
    """Among how many pieces to divide so many bytes of every piece together, so that no slice is too small."""
    return max(1, min(num_pieces(), num_bytes // (num_pieces() * LEAST_BYTES)))


def judge_by_key(keys: npt.NDArray[np.uint64], judge: Callable[[npt.NDArray[np.uint64]], Bools]) -> Bools:
    """judge(keys) of the rows of all pieces: wherever it is called, it has all rows with a key, in their order.

    keys: (N, 2), hashes. Returns (N,).
    """
    if num_pieces() == 1:
        return judge(keys)
    num = num_receivers(min(total(keys.nbytes), total(len(keys)) // 8 * num_pieces()))  # of keys, or of shared bits
    receiver = ((keys[:, 0] ^ keys[:, 1]) >> np.uint64(32)) * np.uint64(num) >> np.uint64(32)
    order, edges = divide(receiver, num)
    received = exchange(lambda: (keys[order[a:b]] for a, b in pairwise(edges)))
    verdicts = (np.cumsum([0, *map(len, received)]), judge(np.concatenate(received))) if received else None
    result = np.empty(len(keys), bool)
    # Packed bits of all, of which each piece takes its part: small slices would cost the driver more than their bits.
    shared = share(verdicts and (verdicts[0], np.packbits(verdicts[1])))
    for (start, stop), (starts, bits) in zip(pairwise(edges), shared):
        first = int(starts[index()])
        result[order[start:stop]] = np.unpackbits(bits, count=first + stop - start)[first:].astype(bool)
    return result


def divide(receiver: npt.NDArray, num: int) -> tuple[I64, I64]:
    """(rows by receiver, in their order; where the rows of each of `num` receivers start). receiver: (N,)."""
    receiver = receiver.astype(np.uint16)  # of which numpy's stable sort is a radix sort
    order = np.argsort(receiver, kind="stable")
    return order, np.searchsorted(receiver[order], np.arange(num + 1))


class Pieces(Protocol):
    """Where programs run. Handles stand for values that stay where they were made."""

    def run(self, program: Callable[..., Any], columns: Sequence[Sequence[Any]], *shared: Any) -> list[Any]:
        """Handles of program(*piece, *shared) of every piece. columns: of values or handles, one of each per piece."""

    def get(self, handle: Any) -> Any:
        """The value of a handle."""


@dataclass(frozen=True)
class Local:
    """In this process, one piece after the other; one piece is the whole corpus, and runs straight through."""

    def run(self, program: Callable[..., Any], columns: Sequence[Sequence[Any]], *shared: Any) -> list[Any]:
        pieces = [*zip(*columns, strict=True)]
        if len(pieces) == 1:
            return [program(*pieces[0], *shared)]
        answers: list[list[Any]] = [[] for _ in pieces]
        while True:
            outcomes = [
                run_until_asked(Piece(i, len(pieces), answers[i]), program, *piece, *shared)
                for i, piece in enumerate(pieces)
            ]
            first = outcomes[0]
            if not isinstance(first, Unanswered):
                return outcomes
            slices = [list(asked.slices()) for asked in outcomes]
            for i, answer in enumerate(answers):
                if first.kind == "fold":
                    answer.append(first.by([asked.value for asked in outcomes]))
                else:
                    answer.append(pick_slices(slices, first.kind, i))

    def get(self, handle: Any) -> Any:
        return handle


def pick_slices(slices: Sequence[Sequence[T]], kind: str, receiver: int) -> list[T]:
    """What a piece receives of the slices of every piece."""
    column = 0 if kind == "share" else receiver
    return [of_piece[column] for of_piece in slices if column < len(of_piece)]


def run_until_asked(piece: Piece, program: Callable[..., Any], *arguments: Any) -> Any:
    """What the program returns, or its first question that is not answered yet."""
    with on(piece):
        try:
            return program(*arguments)
        except Unanswered as question:
            return question

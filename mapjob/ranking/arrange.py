"""All pairs in one global order, of which every piece has a range of ranks; in one piece nothing is sent."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mapjob import collective
from mapjob.arrays import F64, I64, Bools
from mapjob.config.selection import Selection
from mapjob.metrics.columns import NUM_TOKENS
from mapjob.metrics.quantiles import order_keys
from mapjob.ranking.order import Cut, PairIds, cut, rank_order
from mapjob.ranking.pairs import RankedPairs

SAMPLES_PER_RANGE = 64  # by which the order is divided; they decide who sorts what, never the result
RANK_BYTES = 8  # of what is sent back for a pair
NUM_ROWS = "num_rows"


@dataclass(frozen=True)
class Picked:
    """What a selection keeps of a piece's own pairs. cut: kept_at in the piece's own order, all counts over all pieces.

    output_rows: of each kept pair, its first row in the selection; None if they are 0, 1, 2, ….
    """

    cut: Cut
    output_rows: I64 | None


@dataclass(frozen=True)
class Arrangement:
    """The global order. order: this piece's own pairs, best first; ranks: of these, None if they are 1, 2, 3, ….

    here, score, no_margin: (M,), the pairs of a range of ranks, which this piece cuts; its own only if it is alone;
    here_order: of them, best first. sent: rows of its own pairs by the piece that has them here. received: how many of
    `here` each piece sent.
    """

    order: I64
    ranks: I64 | None
    here: RankedPairs
    score: F64
    no_margin: Bools
    here_order: I64
    sent: tuple[I64, ...] = ()
    received: tuple[int, ...] = ()

    def pick(self, selection: Selection) -> Picked:
        """What the selection keeps, by the rules that its columns were arranged for."""
        whole = cut(self.here, selection, self.here_order, self.score, self.no_margin)
        if self.ranks is None:
            return Picked(whole, None)
        if not whole.passed_over and NUM_ROWS not in self.here.columns:  # by no rule: the first of all
            kept_at = np.arange(np.searchsorted(self.ranks, collective.total(len(whole.kept_at)), side="right"))
            return Picked(replace(whole, kept_at=kept_at), self.ranks[kept_at] - 1)
        num_rows = self.here.columns[NUM_ROWS][self.here_order[whole.kept_at]] if NUM_ROWS in self.here.columns else 1
        num_rows = np.broadcast_to(num_rows, len(whole.kept_at))
        output_rows = np.full(len(self.here_order), -1)
        output_rows[whole.kept_at] = collective.before(int(num_rows.sum())) + np.cumsum(num_rows) - num_rows
        of_own = self._send_back(output_rows)[self.order]
        kept_at = np.flatnonzero(of_own >= 0)
        return Picked(replace(whole, kept_at=kept_at), of_own[kept_at])

    def _send_back(self, in_order: I64) -> I64:
        """A number of each pair to the piece whose own it is. in_order: of `here_order`. Returns (N,)."""
        values = np.empty_like(in_order)
        values[self.here_order] = in_order
        edges = np.cumsum([0, *self.received])
        result = np.empty(sum(map(len, self.sent)), values.dtype)
        back = collective.exchange(lambda: (values[a:b] for a, b in pairwise(edges)))
        for rows, numbers in zip(self.sent, back):
            result[rows] = numbers
        return result


def arrange(
    pairs: RankedPairs, selection: Selection, score: F64, pair_ids: PairIds, num_rows: I64 | None = None
) -> Arrangement:
    """Bring all pairs into the order of `rank_order`. Pairs without a reward margin come after all others.

    score: (N,); pair_ids: by position in the corpus; num_rows: of each pair in a selection, None: one.
    """
    no_margin = pairs.columns["reward_margin"] == 0
    by_position = lambda here: lambda index: pair_ids(here.position[index])  # noqa: E731
    if collective.num_pieces() == 1:
        order = rank_order(score, by_position(pairs), no_margin)
        return Arrangement(order, None, pairs, score, no_margin, order)
    num_pairs = collective.total(len(pairs))
    num = collective.num_receivers(RANK_BYTES * num_pairs)
    receiver = _find_range(order_keys(score), no_margin, num, max(1, num_pairs // (num * SAMPLES_PER_RANGE)))
    rows, edges = collective.divide(receiver, num)
    sent = tuple(rows[a:b] for a, b in pairwise(edges))
    thinned = _thin(pairs, selection, num_rows)
    parts = collective.exchange(lambda: ((thinned.take(rows), score[rows], no_margin[rows]) for rows in sent))
    received = tuple(len(part) for part, *_ in parts)
    if not parts:
        parts = [(thinned.take(sent[0][:0]), score[:0], no_margin[:0])]
    here = RankedPairs.join([part for part, *_ in parts])
    score, no_margin = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    here_order = rank_order(score, by_position(here), no_margin)
    first = collective.before(len(here_order))
    arranged = Arrangement(here_order, None, here, score, no_margin, here_order, sent, received)
    ranks = arranged._send_back(np.arange(first + 1, first + 1 + len(here_order)))
    order = np.argsort(ranks)
    return replace(arranged, order=order, ranks=ranks[order])


def _thin(pairs: RankedPairs, selection: Selection, num_rows: I64 | None) -> RankedPairs:
    """The pairs with what a cut goes by."""
    names = NUM_TOKENS if selection.keep.tokens is not None else ()
    columns = {name: pairs.columns[name] for name in names} | ({} if num_rows is None else {NUM_ROWS: num_rows})
    return RankedPairs(
        pairs.position,
        columns,
        prompt_key=None if selection.per_prompt is None else pairs.prompt_key,
        group=None if selection.quotas is None else pairs.group,
        groups=pairs.groups,
    )


def _find_range(keys: npt.NDArray[np.uint64], no_margin: Bools, num: int, step: int) -> I64:
    """In which range of the order each pair is, of so many of about equal length; pairs of equal keys are together.

    step: every so many pairs of this piece one is looked at to divide the order.
    """
    sample = keys[::step], no_margin[::step]
    bounds, last = collective.fold(sample, partial(_divide, num))
    split = len(bounds) - int(last.sum())  # the ranges before it hold pairs with a margin, but for the last of them
    with_margin = np.searchsorted(bounds[:split], keys, side="right")
    return np.where(no_margin, split + np.searchsorted(bounds[split:], keys, side="right"), with_margin)


def _divide(num: int, samples: list[tuple[npt.NDArray[np.uint64], Bools]]) -> tuple[npt.NDArray[np.uint64], Bools]:
    """(key, whether without a margin) of the first pair of every range but the first; in the order of pairs."""
    keys, last = (np.concatenate(part) for part in zip(*samples))
    order = np.lexsort((keys, last))
    at = order[len(order) * np.arange(1, num) // num] if len(order) else order
    return keys[at], last[at]

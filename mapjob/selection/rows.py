"""The rows of a selection, before any text is read: their pairs, their order, and mapjob's columns."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob import collective
from mapjob.arrays import F64, I64
from mapjob.config.selection import Selection
from mapjob.metrics.columns import REWARD
from mapjob.metrics.map import map_score
from mapjob.ranking.pairs import Pairs, RankedPairs
from mapjob.ranking.rank import Ranking
from mapjob.selection.files import mark_rows


@dataclass(frozen=True)
class Rows:
    """Rows to publish, in their order; arrays of shape (M,).

    Reward-augmented rows have the columns `reward_goal`, which is stated in the prompt, and `goal_swapped`: True if the
    goal is the rejected side's, so that the sides are exchanged.
    """

    pairs: RankedPairs
    index: I64  # in `pairs`
    output_rows: I64  # index of each in the whole selection
    before: dict[str, npt.NDArray]  # columns before those of the scorers
    after: dict[str, npt.NDArray]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def position(self) -> I64:
        """Of the rows in the corpus."""
        return self.pairs.position[self.index]

    def take(self, rows: I64) -> "Rows":
        before, after = (
            {name: values[rows] for name, values in columns.items()} for columns in (self.before, self.after)
        )
        return Rows(self.pairs, self.index[rows], self.output_rows[rows], before, after)

    @property
    def marks(self) -> npt.NDArray[np.uint64]:
        """A hash of each, see `mark_rows`."""
        in_row = () if self.pairs.pair_in_row is None else (self.pairs.pair_in_row[self.index],)
        return mark_rows(self.output_rows, [self.position, *in_row, *self.before.values(), *self.after.values()])

    def pairs_of(self, unit: Pairs) -> Pairs:
        """The scored pairs of these rows, which all are of this unit."""
        pair_in_row = 0 if self.pairs.pair_in_row is None else self.pairs.pair_in_row[self.index]
        pairs = unit.take(np.searchsorted(unit.position, self.position) + pair_in_row)
        return pairs.swap(self.after["goal_swapped"]) if "goal_swapped" in self.after else pairs

    def our_columns(self, pairs: Pairs) -> dict[str, pa.Array]:
        """Every column of mapjob's, of rows with these pairs (see `pairs_of`)."""
        scored = {
            name: values.astype(np.int64) if name.endswith(("num_tokens", "edit_distance")) else values
            for name, values in pairs.columns.items()
            # A goal is part of the prompt, and with another prompt no log-probability holds.
            if "reward_goal" not in self.after or name.partition(".")[0] in REWARD
        }
        columns = self.before | scored | self.after
        return {"pair_id": pairs.pair_id, **{name: pa.array(values) for name, values in columns.items()}}


def ranked_rows(ranking: Ranking, selection: Selection, index: I64, rank: I64) -> Rows:
    """One row per pair of the ranking at `index`. index: in ranking.pairs, rank: 1 = best; both (M,)."""
    before = {"rank": rank, "map_score": ranking.map_score[index]}
    if selection.metric != "map":
        before[selection.metric] = ranking.score[index]
    after = _margins(ranking.reward_margin[index], ranking.implicit_margin[index])
    after |= {name: values[index] for name, values in ranking.further.items()}
    return Rows(ranking.pairs, index, np.arange(len(index)), before, after)


def selected_rows(ranking: Ranking, selection: Selection) -> Rows:
    """The selected pairs, best first; if the selection states goals, two rows per pair that has them."""
    rows = ranked_rows(ranking, selection, ranking.kept, ranking.kept_rank)
    if ranking.picked.output_rows is not None:
        rows = replace(rows, output_rows=ranking.picked.output_rows)
    goals = ranking.goals
    if goals is None:
        return rows
    first = np.full(len(ranking.pairs), -1)
    first[goals.pair[::2]] = np.arange(0, len(goals.pair), 2)
    starts = first[rows.index]
    used = np.flatnonzero(starts >= 0)
    goal_rows = (starts[used, None] + [0, 1]).reshape(-1)
    rows = rows.take(np.repeat(used, 2))
    output_rows = rows.output_rows + np.tile([0, 1], len(used))
    if ranking.picked.output_rows is None:
        output_rows = np.arange(len(rows))
    swapped = goals.swapped[goal_rows]
    h = np.where(swapped, -1, 1) * rows.after["reward_margin"]
    after = {"reward_margin": h, "label_agrees": h > 0, "reward_goal": goals.goal[goal_rows], "goal_swapped": swapped}
    return replace(rows, output_rows=output_rows, after=after)


def held_out_rows(ranking: Ranking, selection: Selection) -> Rows:
    """The pairs of the held-out prompts, in corpus order, on the scale of the ranking."""
    pairs = ranking.held_out
    reward, implicit = pairs.columns["reward_margin"], pairs.columns[f"{selection.implicit}_margin"]
    before = {"map_score": map_score(reward, implicit, ranking.scale, selection.alpha)}
    output_rows = collective.before(len(pairs)) + np.arange(len(pairs))
    return Rows(pairs, np.arange(len(pairs)), output_rows, before, _margins(reward, implicit))


def _margins(reward: F64, implicit: F64) -> dict[str, npt.NDArray]:
    return {"reward_margin": reward, "implicit_margin": implicit, "label_agrees": reward > 0}

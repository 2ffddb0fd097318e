"""The scored completions of a unit's records, and the pairs that are made of them.

Values of completions lie flat: all completions of all records in a row, shape (C,); `offsets`, (N + 1,), says where
each record's completions start.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64, I64
from mapjob.config import Selection
from mapjob.metrics.map import Scale
from mapjob.ranking.pairing import CandidatePairs, best_by_dcrm, best_by_map, best_worst, gather, labelled, ranked


@dataclass(frozen=True)
class Completions:
    """columns: reward, logps, num_tokens; where they were scored also ref_logps, unconditional_logps, collision_logps
    and reward.<name> of each of several reward models; shape (C,). edit_distance: of every two completions of a record,
    as `pairing.all_pairs` orders them, where a metric or the pairing goes by it.
    """

    offsets: I64
    columns: dict[str, npt.NDArray]
    edit_distance: npt.NDArray | None = None

    @property
    def num(self) -> I64:
        """Completions of each record, shape (N,)."""
        return np.diff(self.offsets)

    def labelled(self) -> CandidatePairs:
        """Preference data: one pair a record, its label that of the corpus."""
        return CandidatePairs(np.arange(len(self.num)), *labelled(self.num))

    def best_worst(self) -> CandidatePairs:
        return CandidatePairs(np.arange(len(self.num)), *best_worst(self.columns["reward"], self.offsets))

    def paired(self, selection: Selection, scale: Scale | None) -> CandidatePairs:
        """The pairs that selection.pairing makes of candidates. scale: that of pairing map, of the best_worst pairs."""
        c, most = self.columns, selection.pairs_per_record
        match selection.pairing:
            case "ranked":
                return ranked(c["reward"], self.offsets, most)
            case "dcrm":
                assert self.edit_distance is not None, "scored where the pairing asks for it"
                return best_by_dcrm(c["reward"], c["logps"], self.edit_distance, self.offsets, most=most)
            case "map":
                assert scale is not None, "settled over the corpus first"
                implicit = (
                    c["logps"] / c["num_tokens"] if selection.implicit == "simpo" else c["logps"] - c["ref_logps"]
                )
                return best_by_map(c["reward"], implicit, self.offsets, scale, selection.alpha, most)
        return self.best_worst()

    def columns_of(self, pairs: CandidatePairs) -> dict[str, F64]:
        """Both sides' columns of each pair, float64: chosen_logps, ref_chosen_logps, …; and its edit_distance."""
        columns = {}
        for name, values in self.columns.items():
            # TRL's names for the reference.
            prefix, name = ("ref_", name.removeprefix("ref_")) if name.startswith("ref_") else ("", name)
            columns[f"{prefix}chosen_{name}"] = gather(values, self.offsets, pairs.chosen, pairs.record)
            columns[f"{prefix}rejected_{name}"] = gather(values, self.offsets, pairs.rejected, pairs.record)
        if self.edit_distance is not None:
            columns["edit_distance"] = self.edit_distance[self._place(pairs)].astype(np.float64)
        return columns

    def _place(self, pairs: CandidatePairs) -> I64:
        """Where `all_pairs` has the two completions of each pair."""
        num = self.num
        starts = np.concatenate(([0], np.cumsum(num * (num - 1) // 2)))[pairs.record]
        low, high = np.minimum(pairs.chosen, pairs.rejected), np.maximum(pairs.chosen, pairs.rejected)
        return starts + low * (2 * num[pairs.record] - low - 1) // 2 + high - low - 1

"""Scored pairs with all their columns, a unit at a time; and of the whole corpus what the ranking needs of them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob.config import Selection
from mapjob.errors import Reason
from mapjob.metrics import margins
from mapjob.metrics.statistics import F64
from mapjob.ranking.duplicates import is_repeat
from mapjob.ranking.order import I64

SIDES = (
    ("chosen_reward", "rejected_reward"),
    ("chosen_logps", "rejected_logps"),
    ("chosen_num_tokens", "rejected_num_tokens"),
    ("ref_chosen_logps", "ref_rejected_logps"),
)


@dataclass(frozen=True)
class Pairs:
    """Rows that were scored by every model, in corpus order. All arrays are of shape (N,), keys of shape (N, 2).

    `columns` holds both of each of SIDES, the last where a reference was scored.
    """

    position: I64  # of the row in the whole corpus
    unit: I64  # index of its unit in the plan
    pair_id: pa.Array
    content_key: npt.NDArray[np.uint64]  # of the chosen and of the rejected side, each with its prompt
    prompt_key: npt.NDArray[np.uint64]
    chosen: I64  # index of the chosen completion in its record
    rejected: I64
    columns: dict[str, F64]

    def __len__(self) -> int:
        return len(self.position)

    def take(self, index: npt.NDArray) -> "Pairs":
        """The pairs at an index array, or where a mask is True."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        arrays = {name: getattr(self, name)[index] for name in ("position", "unit", "content_key", "prompt_key")}
        arrays |= {"chosen": self.chosen[index], "rejected": self.rejected[index]}
        columns = {name: column[index] for name, column in self.columns.items()}
        return Pairs(**arrays, pair_id=self.pair_id.take(pa.array(index)), columns=columns)

    def swapped(self, where: npt.NDArray[np.bool_]) -> "Pairs":
        """The pairs with chosen and rejected exchanged where the mask is True."""
        columns = dict(self.columns)
        for one, other in SIDES:
            if one in columns:
                columns[one], columns[other] = (
                    np.where(where, self.columns[other], self.columns[one]),
                    np.where(where, self.columns[one], self.columns[other]),
                )
        chosen, rejected = np.where(where, self.rejected, self.chosen), np.where(where, self.chosen, self.rejected)
        key = np.where(where[:, None], self.content_key[:, ::-1], self.content_key)
        return replace(self, columns=columns, chosen=chosen, rejected=rejected, content_key=key)

    def relabelled(self) -> "Pairs":
        """The pairs with chosen and rejected exchanged where the reward model prefers the rejected side."""
        return self.swapped(self.columns["chosen_reward"] < self.columns["rejected_reward"])


@dataclass(frozen=True)
class RankedPairs:
    """The pairs that are ranked, of the whole corpus and in its order: a few dozen bytes each. Arrays of shape (N,)."""

    position: I64
    columns: dict[str, F64]  # what the selection goes by, see `ranking_columns`
    prompt_key: npt.NDArray[np.uint64] | None  # (N, 2), where the selection caps the pairs of a prompt
    unit_starts: I64  # position of the first pair of each unit, before any fell
    dropped: dict[Reason, I64]  # positions of the scored pairs that fell by a rule

    def __len__(self) -> int:
        return len(self.position)


def ranking_columns(pairs: Pairs, selection: Selection) -> dict[str, F64]:
    """What the global ranking needs of pairs. Every column here costs eight bytes a pair of the whole corpus."""
    c = pairs.columns
    policy = c["chosen_logps"], c["rejected_logps"]
    num_tokens = c["chosen_num_tokens"], c["rejected_num_tokens"]
    if selection.implicit == "simpo":
        implicit = margins.simpo_margin(*policy, *num_tokens)
    else:
        implicit = margins.dpo_margin(*policy, c["ref_chosen_logps"], c["ref_rejected_logps"])
    columns = {"reward_margin": margins.reward_margin(c["chosen_reward"], c["rejected_reward"])}
    columns["implicit_margin"] = implicit
    if selection.keep.tokens is not None:
        columns["num_tokens"] = sum(num_tokens)
    return columns


def gathered(units: Iterable[Pairs], num_rows: int, selection: Selection) -> RankedPairs:
    """Go through the scored pairs of a corpus once, in corpus order, and keep what ranking needs of those it ranks.

    num_rows: of the whole corpus, at least as many as there are pairs. Exact repeats fall, and then, where the
    selection says so, pairs whose label the reward model contradicts.
    """
    arrays: dict[str, npt.NDArray] = {}
    unit_starts: list[I64] = []
    num = 0
    for pairs in units:
        held = {"position": pairs.position, "content_key": pairs.content_key, **ranking_columns(pairs, selection)}
        if selection.per_prompt is not None:
            held["prompt_key"] = pairs.prompt_key
        for name, values in held.items():
            if name not in arrays:
                arrays[name] = np.empty((num_rows, *values.shape[1:]), values.dtype)  # what is not filled costs nothing
            arrays[name][num : num + len(pairs)] = values
        unit_starts.append(pairs.position[np.flatnonzero(np.diff(pairs.unit, prepend=-1))])
        num += len(pairs)
    arrays = {name: array[:num] for name, array in arrays.items()}

    repeats = _repeats(arrays.pop("content_key"), either_way=selection.on_disagreement == "relabel")
    ranked = ~repeats
    dropped = {Reason.DUPLICATE: arrays["position"][repeats]}
    if selection.on_disagreement == "drop":
        contradicts = ranked & (arrays["reward_margin"] < 0)
        dropped[Reason.DISAGREEMENT] = arrays["position"][contradicts]
        ranked &= ~contradicts
    if not ranked.all():
        for name in arrays:  # one after the other, so that only one of them is there twice
            arrays[name] = arrays[name][ranked]
    position, prompt_key = arrays.pop("position"), arrays.pop("prompt_key", None)
    return RankedPairs(position, arrays, prompt_key, np.concatenate(unit_starts), dropped)


def _repeats(content_keys: npt.NDArray[np.uint64], either_way: bool) -> npt.NDArray[np.bool_]:
    """`is_repeat` a sixteenth of the keys at a time, since sorting all of them at once needs much memory."""
    repeats = np.zeros(len(content_keys), bool)
    # The same for equal keys, also the other way round.
    part = ((content_keys[:, 0] ^ content_keys[:, 1]) >> np.uint64(60)).astype(np.uint8)
    for number in range(16):
        rows = np.flatnonzero(part == number)
        repeats[rows] = is_repeat(content_keys[rows], either_way)
    return repeats

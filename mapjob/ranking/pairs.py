"""Scored pairs with all their columns, unit by unit; and what ranking needs of the pairs of the whole corpus."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob.arrays import F64, I64, Bools
from mapjob.config.selection import Selection
from mapjob.errors import Reason
from mapjob.metrics.columns import EACH_MODEL, MARGINS
from mapjob.metrics.ensemble import VOTES
from mapjob.metrics.map import dpo_margin, reward_margin, simpo_margin
from mapjob.metrics.statistics import Moments


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows that were scored by every model, in corpus order. Arrays are of shape (N,), keys of shape (N, 2).

    `columns` holds both sides of everything that was scored (chosen_reward and rejected_reward, …), and edit_distance.
    """

    position: I64  # of the row in the whole corpus
    pair_in_row: I64  # of the pair among those of its row
    pair_id: pa.Array
    content_key: npt.NDArray[np.uint64]  # of the chosen and of the rejected side, each with its prompt
    prompt_key: npt.NDArray[np.uint64]
    chosen: I64  # index of the chosen completion in its record
    rejected: I64
    columns: dict[str, F64]
    group: pa.Array | None = None  # text
    signature: npt.NDArray[np.uint32] | None = None  # (N, hashes): MinHash of the row's words
    decision: npt.NDArray[np.int8] | None = None  # of people, if there are any: a rule, 0: none, or SETTLED (gather.py)

    def __len__(self) -> int:
        return len(self.position)

    def take(self, index: npt.NDArray) -> "Pairs":
        """The pairs at an index array, or for which a mask is True."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        return Pairs(**{field.name: _take(getattr(self, field.name), index) for field in fields(self)})

    def swap(self, where: npt.NDArray[np.bool_]) -> "Pairs":
        """The pairs with chosen and rejected exchanged if the mask is True."""
        columns = {
            name: np.where(where, self.columns[other_side(name)], values) for name, values in self.columns.items()
        }
        chosen, rejected = np.where(where, self.rejected, self.chosen), np.where(where, self.chosen, self.rejected)
        key = np.where(where[:, None], self.content_key[:, ::-1], self.content_key)
        return replace(self, columns=columns, chosen=chosen, rejected=rejected, content_key=key)

    def contradicted(self, votes: str | None) -> Bools:
        """Of which pairs the reward model prefers the rejected side, and people said nothing, (N,). votes: of several
        reward models, those of VOTES that decide; None: their mean.
        """
        if votes is None:
            contradicted = self.columns["chosen_reward"] < self.columns["rejected_reward"]
        else:
            contradicted = VOTES[votes].contradicts(np.stack([*margins_of_models(self.columns).values()]))
        return contradicted if self.decision is None else contradicted & (self.decision == 0)


def other_side(name: str) -> str:
    """The column of the pair's other side: rejected_logps for chosen_logps; a column of the pair itself is its own."""
    other = {"chosen": "rejected", "rejected": "chosen"}
    return re.sub("^(ref_)?(chosen|rejected)(?=_)", lambda match: (match[1] or "") + other[match[2]], name)


@dataclass(frozen=True)
class RankedPairs:
    """The ranked pairs of the whole corpus, in its order: a few dozen bytes per pair. Arrays of shape (N,)."""

    position: I64
    columns: dict[str, F64]  # what the selection goes by, see `ranking_columns`
    dropped: dict[Reason, I64] = field(default_factory=dict)  # positions of rows whose pairs were all dropped
    num_beside: dict[Reason, int] = field(default_factory=dict)  # dropped pairs of rows of which another is ranked
    pair_in_row: npt.NDArray[np.int32] | None = None  # if a row may give several
    prompt_key: npt.NDArray[np.uint64] | None = None  # (N, 2), if asked for; (N, 1): only to count prompts
    group: npt.NDArray[np.int32] | None = None  # index in `groups`, if quotas or a report go by them
    groups: tuple[str | None, ...] = ()
    signature: npt.NDArray[np.uint32] | None = None  # if near duplicates are skipped
    rewards: Mapping[str, Moments] = field(default_factory=dict)  # of each of several reward models

    def __len__(self) -> int:
        return len(self.position)

    def take(self, index: npt.NDArray) -> "RankedPairs":
        """The pairs at an index array, or for which a mask is True."""
        return replace(self, **{name: _take(getattr(self, name), index) for name in PER_PAIR})

    @staticmethod
    def join(parts: "Sequence[RankedPairs]") -> "RankedPairs":
        """The pairs of all parts, at least one, which have the same columns and groups."""
        return replace(parts[0], **{name: _join([getattr(part, name) for part in parts]) for name in PER_PAIR})


PER_PAIR = ("position", "columns", "pair_in_row", "prompt_key", "group", "signature")


def _join(parts: Sequence[Any]) -> Any:
    """Arrays one after the other, or those of every key of a dict; None stays None."""
    if isinstance(parts[0], dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return None if parts[0] is None else np.concatenate(parts)


def _take(values: Any, index: npt.NDArray) -> Any:
    """The rows at an index of an array, or of every array in a dict; None stays None."""
    if isinstance(values, dict):
        return {name: column[index] for name, column in values.items()}
    if isinstance(values, pa.Array):
        return values.take(pa.array(index))
    return None if values is None else values[index]


MARGIN = {"reward_margin": reward_margin, "simpo_margin": simpo_margin, "dpo_margin": dpo_margin}


def margins_of_models(columns: Mapping[str, F64]) -> dict[str, F64]:
    """By the name of each of several reward models."""
    models = [name.partition(".")[2] for name in columns if name.startswith("chosen_reward.")]
    return {model: columns[f"chosen_reward.{model}"] - columns[f"rejected_reward.{model}"] for model in models}


def ranking_columns(pairs: Pairs, selection: Selection) -> dict[str, F64]:
    """What the global ranking needs of pairs. A column costs eight bytes per pair of the corpus."""
    c = pairs.columns
    columns = {}
    for name in sorted(selection.columns):
        if name == EACH_MODEL:
            columns |= {f"reward_margin.{model}": margin for model, margin in margins_of_models(c).items()}
        elif name in MARGINS:
            columns[name] = MARGIN[name](*(c[part] for part in MARGINS[name]))
        else:
            columns[name] = c[name]
    return columns

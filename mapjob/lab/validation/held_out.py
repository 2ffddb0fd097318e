"""The held-out pairs that every arm is tested on, and the prompts among them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob.arrays import F64, I64, Bools
from mapjob.corpus.records import Record
from mapjob.errors import ConfigError
from mapjob.lab.world.tasks import Task, grade
from mapjob.store.run_folder import RunFolder

TEXTS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class HeldOut:
    """Held-out pairs, N of P prompts, in corpus order.

    rows: of held_out/, (N,); table: as it was published; records: their texts; prompt: index of each pair's prompt,
    (N,); tasks: of the prompts, (P,), in a known world.
    """

    rows: I64
    table: pa.Table
    records: list[Record]
    prompt: I64
    tasks: Sequence[Task] = ()

    @property
    def item(self) -> I64:
        """What each prompt asks for, (P,): prompts of one item in other words are no independent tests."""
        asked = [(task.kind, task.prompts[0]) for task in self.tasks] or range(self.num_prompts)
        numbers: dict[Any, int] = {}
        return np.array([numbers.setdefault(item, len(numbers)) for item in asked], np.int64)

    @property
    def prompts(self) -> list[Record]:
        """One record per prompt, (P,)."""
        first = np.unique(self.prompt, return_index=True)[1]
        return [self.records[index] for index in first]

    @property
    def num_prompts(self) -> int:
        return int(self.prompt.max()) + 1

    @cached_property
    def gold(self) -> F64:
        """Of both sides of each pair of a known world, (N, 2), as they are published."""
        return grade_sides(self.records, [self.tasks[index] for index in self.prompt])

    def column(self, name: str) -> F64:
        return self.table[name].to_numpy().astype(np.float64)


def grade_sides(records: Sequence[Record], tasks: Sequence[Task]) -> F64:
    """Gold rewards of chosen and rejected of each pair, (N, 2)."""
    return np.array(
        [[grade(task, side[0]["content"]) for side in record.completions] for record, task in zip(records, tasks)]
    )


def read_gold(run: RunFolder, tasks: Mapping[str, Task]) -> F64:
    """Of both sides of every pair that a run of a known world publishes, (N, 2), best first."""
    rows = [row for name in run.tables("selected") for row in run.read_table(name, list(TEXTS)).to_pylist()]
    records = [Record(row["prompt"], [row["chosen"], row["rejected"]]) for row in rows]
    return grade_sides(records, [tasks[record.prompt[0]["content"]] for record in records])


def read_held_out(
    run: RunFolder,
    development: float,
    of_development: bool,
    group: str | None,
    groups: tuple[str, ...] | None,
    tasks: Mapping[str, Task] | None = None,
) -> HeldOut:
    """The pairs of a run's held-out prompts: those to test on, or those to choose a recipe by.

    group: the column that `groups` are values of. tasks: of a known world, by prompt. Raises ConfigError if no pair is
    left.
    """
    table = pa.concat_tables([run.read_table(name) for name in run.tables("held_out")])
    rows = table.select(list(TEXTS)).to_pylist()
    records = [Record(row["prompt"], [row["chosen"], row["rejected"]]) for row in rows]
    keys = np.array([record.prompt_key for record in records], dtype=object)
    wanted = np.array([_is_development(key, development) == of_development for key in keys], bool)
    if groups is not None:
        wanted &= np.isin(np.array(table[group].to_pylist(), dtype=object).astype(str), groups)
    indices = np.flatnonzero(wanted)
    if not len(indices):
        raise ConfigError("no held-out pair to test on", run.url, "raise run.selection.held_out, or see `groups`")
    some = [records[i] for i in indices]
    held_out = HeldOut(indices, table.take(pa.array(indices)), some, _number(keys[indices]))
    if tasks is None:
        return held_out
    return replace(held_out, tasks=[tasks[record.prompt[0]["content"]] for record in held_out.prompts])


def read_clean(run: RunFolder, development: float, tasks: Mapping[str, Task] | None) -> tuple[I64, Bools]:
    """(rows of held_out/ that are set aside for development and whose better side is known; which of them have it as
    the rejected one). In a known world by the right answers; else those whose label the reward model confirms.
    """
    pairs = read_held_out(run, development, True, None, None, tasks)
    ahead = pairs.column("reward_margin") if tasks is None else pairs.gold[:, 0] - pairs.gold[:, 1]
    known = ahead > 0 if tasks is None else ahead != 0
    return pairs.rows[known], ahead[known] < 0


def _is_development(prompt_key: bytes, share: float) -> bool:
    """Depends on the prompt alone, and on other bits of its hash than holding out does."""
    digest = hashlib.sha256(b"development" + prompt_key).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _number(keys: npt.NDArray) -> I64:
    """0 for the first key and all equal to it, 1 for the next new one, and so on."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys], np.int64)

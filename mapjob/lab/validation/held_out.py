"""The held-out pairs that every arm is tested on, and the prompts among them."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob.arrays import F64, I64
from mapjob.corpus.records import Record
from mapjob.errors import ConfigError
from mapjob.store.run_folder import RunFolder


@dataclass(frozen=True)
class HeldOut:
    """Held-out pairs, N of P prompts, in corpus order.

    table: as it was published; records: their texts; prompt: index of each pair's prompt, (N,).
    """

    table: pa.Table
    records: list[Record]
    prompt: I64

    @property
    def prompts(self) -> list[Record]:
        """One record per prompt, (P,)."""
        first = np.unique(self.prompt, return_index=True)[1]
        return [self.records[index] for index in first]

    @property
    def num_prompts(self) -> int:
        return int(self.prompt.max()) + 1

    def column(self, name: str) -> F64:
        return self.table[name].to_numpy().astype(np.float64)


def read_held_out(
    run: RunFolder, development: float, of_development: bool, group: str | None, groups: tuple[str, ...] | None
) -> HeldOut:
    """The pairs of a run's held-out prompts: those to test on, or those to choose a recipe by.

    group: the column that `groups` are values of. Raises ConfigError if no pair is left.
    """
    table = pa.concat_tables([run.read_table(name) for name in run.tables("held_out")])
    rows = table.select(["prompt", "chosen", "rejected"]).to_pylist()
    records = [Record(row["prompt"], [row["chosen"], row["rejected"]]) for row in rows]
    keys = np.array([record.prompt_key for record in records], dtype=object)
    wanted = np.array([_is_development(key, development) == of_development for key in keys], bool)
    if groups is not None:
        wanted &= np.isin(np.array(table[group].to_pylist(), dtype=object).astype(str), groups)
    indices = np.flatnonzero(wanted)
    if not len(indices):
        raise ConfigError("no held-out pair to test on", run.url, "raise run.selection.held_out, or see `groups`")
    return HeldOut(table.take(pa.array(indices)), [records[i] for i in indices], _number(keys[indices]))


def _is_development(prompt_key: bytes, share: float) -> bool:
    """Depends on the prompt alone, and on other bits of its hash than holding out does."""
    digest = hashlib.sha256(b"development" + prompt_key).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _number(keys: npt.NDArray) -> I64:
    """0 for the first key and all equal to it, 1 for the next new one, and so on."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys], np.int64)

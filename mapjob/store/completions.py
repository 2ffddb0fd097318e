"""The completions of a unit, and the pairs made of them, out of its column families."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.arrays import I64
from mapjob.errors import MapjobError
from mapjob.metrics.ensemble import Ensemble
from mapjob.metrics.statistics import Moments
from mapjob.ranking.pairing import CandidatePairs, Completions
from mapjob.ranking.pairs import Pairs

# Column of Completions, the family it comes from, and its name there.
COLUMNS = (
    ("reward", "reward", "rewards"),
    ("logps", "policy", "logps"),
    ("num_tokens", "policy", "num_tokens"),
    ("ref_logps", "reference", "logps"),
    ("unconditional_logps", "unconditional", "logps"),
    ("collision_logps", "collision", "collision_logps"),
)


def completions_of(families: Mapping[str, pa.Table], rewards: Mapping[str, Moments]) -> Completions:
    """Of rows that no family refused. rewards: of several reward models, whose `reward` is their mean in standard
    deviations of each (see Ensemble).
    """
    num = families["records"]["num_completions"].to_numpy().astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(num)))
    columns = {column: flat(families[family], name, offsets) for column, family, name in COLUMNS if family in families}
    if rewards:
        each = {model: flat(families[f"reward.{model}"], "rewards", offsets) for model in rewards}
        columns = {"reward": Ensemble.of(each, rewards).mean, **columns}
        columns |= {f"reward.{model}": values for model, values in each.items()}
    distances = None
    if "edit_distance" in families:
        distances = flat(families["edit_distance"], "edit_distances", np.append(0, (num * (num - 1) // 2).cumsum()))
    return Completions(offsets, columns, distances)


def flat(table: pa.Table, name: str, offsets: I64) -> npt.NDArray:
    values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(values) != offsets[-1]:
        raise MapjobError(f"the column {name} does not hold one value a completion", "the score store", "score again")
    return values


def pairs_of(
    families: Mapping[str, pa.Table], position: I64, completions: Completions, made: CandidatePairs, several: bool
) -> Pairs:
    """Pairs of rows that no family refused, with all their columns.

    position: of each row in the corpus. several: a row may give several pairs, so an id says which completions.
    """
    identity, record = families["records"], made.record
    keys, first = flat(identity, "completion_keys", completions.offsets), completions.offsets[record]
    starts = np.flatnonzero(np.diff(record, prepend=-1))
    pair_id = identity["pair_id"].combine_chunks().take(pa.array(record))
    if several:
        sides = [f":{chosen}-{rejected}" for chosen, rejected in zip(made.chosen, made.rejected)]
        pair_id = pc.binary_join_element_wise(pair_id, pa.array(sides, pa.string()), "")
    signatures = families.get("near_duplicates")
    return Pairs(
        position=position[record],
        place=np.arange(len(record)) - np.repeat(starts, np.diff(np.append(starts, len(record)))),
        pair_id=pair_id,
        content_key=np.stack([keys[first + made.chosen], keys[first + made.rejected]], axis=1),
        prompt_key=_keys(identity["prompt_key"])[record],
        chosen=made.chosen,
        rejected=made.rejected,
        columns=completions.columns_of(made),
        group=identity["group"].combine_chunks().take(pa.array(record)),
        signature=None if signatures is None else _signatures(signatures)[record],
    )


def _signatures(table: pa.Table) -> npt.NDArray[np.uint32]:
    return table["signature"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)


def _keys(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """16-byte keys as (N, 2) unsigned integers."""
    array = column.combine_chunks()
    values = np.frombuffer(array.buffers()[1] or b"", np.uint64, 2 * (array.offset + len(array)))
    return values.reshape(-1, 2)[array.offset :]

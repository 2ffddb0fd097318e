"""The columns of a plan from the score store, unit by unit: scored pairs, and every other row with its reason."""

import copy
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.arrays import F64, I64, Bools
from mapjob.config.selection import Selection, Signals
from mapjob.corpus.plan import Plan
from mapjob.errors import MapjobError
from mapjob.metrics.ensemble import standardise
from mapjob.metrics.map import Scale
from mapjob.metrics.statistics import Moments
from mapjob.ranking.gather import gather
from mapjob.ranking.pairing import CandidatePairs, Completions
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import scale_of
from mapjob.selection.decide import settle
from mapjob.selection.decisions import NO_DECISIONS, Decisions
from mapjob.store.score_store import ScoreStore

ROWS_AT_ONCE = 100_000  # as one table, if only numbers are needed: a unit of its own costs half a millisecond
UNUSED = {"row", "row_key"}  # columns of the store that no ranking asks for
TEXTS = {"pair_id", "detail"}  # and those that none needs for its numbers
FLAGS = ("truncated", "boundary_moved", "text_not_kept")
COUNTED = {"reason", "detail", *FLAGS}
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
    """Of rows that no family refused. rewards: of several reward models; `reward` is the mean of them, standardised."""
    num = families["records"]["num_completions"].to_numpy().astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(num)))
    columns = {column: flat(families[family], name, offsets) for column, family, name in COLUMNS if family in families}
    if rewards:
        by_model = {model: flat(families[f"reward.{model}"], "rewards", offsets) for model in rewards}
        columns = {"reward": standardise(by_model, rewards)[0].mean(axis=0), **columns}
        columns |= {f"reward.{model}": values for model, values in by_model.items()}
    distances = None
    if "edit_distance" in families:
        distances = flat(families["edit_distance"], "edit_distances", np.append(0, (num * (num - 1) // 2).cumsum()))
    return Completions(offsets, columns, distances)


def flat(table: pa.Table, name: str, offsets: I64) -> npt.NDArray:
    values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(values) != offsets[-1]:
        raise MapjobError(f"the column {name} does not hold one value per completion", "the score store", "score again")
    return values


def pairs_of(
    families: Mapping[str, pa.Table], position: I64, completions: Completions, made: CandidatePairs, several: bool
) -> Pairs:
    """Pairs of rows that no family refused, with all their columns.

    position: of the rows in the corpus. several: a row may give several pairs, so its ids name the completions.
    """
    identity, record = families["records"], made.record
    keys, first = flat(identity, "completion_keys", completions.offsets), completions.offsets[record]
    starts = np.flatnonzero(np.diff(record, prepend=-1))
    pair_id, group = _text(identity, "pair_id"), _text(identity, "group")
    if not np.array_equal(record, np.arange(len(identity))):
        pair_id, group = pair_id.take(pa.array(record)), group.take(pa.array(record))
    if several:
        sides = [f":{chosen}-{rejected}" for chosen, rejected in zip(made.chosen, made.rejected)]
        pair_id = pc.binary_join_element_wise(pair_id, pa.array(sides, pa.string()), "")
    signature = None
    if "near_duplicates" in families:
        values = families["near_duplicates"]["signature"].combine_chunks().flatten().to_numpy()
        signature = values.reshape(len(identity), -1)[record]
    return Pairs(
        position=position[record],
        pair_in_row=np.arange(len(record)) - np.repeat(starts, np.diff(np.append(starts, len(record)))),
        pair_id=pair_id,
        content_key=np.stack([keys[first + made.chosen], keys[first + made.rejected]], axis=1),
        prompt_key=_keys(identity["prompt_key"])[record],
        chosen=made.chosen,
        rejected=made.rejected,
        columns=completions.columns_of(made),
        group=group,
        signature=signature,
    )


def _text(table: pa.Table, name: str) -> pa.Array:
    """A column of text; nulls if it was not read."""
    return table[name].combine_chunks() if name in table.column_names else pa.nulls(len(table), pa.string())


def _keys(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """16-byte keys as (N, 2) unsigned integers."""
    array = column.combine_chunks()
    values = np.frombuffer(array.buffers()[1] or b"", np.uint64, 2 * (array.offset + len(array)))
    return values.reshape(-1, 2)[array.offset :]


@dataclass(frozen=True)
class ScoredUnit:
    """A unit as every model scored it: `rows` has pair_id, reason and detail, `pairs` the rows without a reason.

    relabelled: of which pairs on_disagreement exchanged the sides, (N,). flags: numbers of rows whose text was
    truncated, whose boundary moved, or whose text a template did not keep.
    """

    index: int  # of the unit in the plan
    first_row: int  # its position in the corpus
    rows: pa.Table
    pairs: Pairs
    relabelled: Bools
    flags: dict[str, int]


class ScoredUnits:
    """The units of a plan, read from the score store when they are asked for, and never all held at once.

    families: name -> fingerprint, of the reader's columns and of every scorer. decisions: of people; their verdicts
    hold once they are settled. Reading raises MapjobError if a file is missing or damaged, or is not row-aligned with
    its unit.
    """

    def __init__(
        self,
        plan: Plan,
        families: dict[str, str],
        store: ScoreStore,
        selection: Selection,
        decisions: Decisions = NO_DECISIONS,
    ):
        self.plan, self.decisions, self.settled = plan, decisions, None
        self.families, self._store, self._selection = families, store, selection
        self._first_rows = plan.first_rows

    def settle(self) -> "ScoredUnits":
        """With the verdicts of people on these rows; a program on each of the pieces."""
        settled = copy.copy(self)
        settled.settled = settle(self._read_records(), self.decisions.verdicts, self._gives_candidates)
        return settled

    @property
    def _gives_candidates(self) -> bool:
        return self.plan.corpus.reading.gives_candidates

    @cached_property
    def rewards(self) -> dict[str, Moments]:
        """Moments by reward model, if there are several, over the completions of rows that no family refused."""
        names = [name for name in self.families if name.startswith("reward.")]
        parts: dict[str, list[F64]] = {name: [] for name in names}
        for _, families in self._read_joined() if names else ():
            valid = _valid_rows(families, _first_reason(families)[0])
            for name in names:
                parts[name].append(pc.list_flatten(valid[name]["rewards"]).to_numpy())
        return {name.removeprefix("reward."): Moments.of(np.concatenate(parts[name])) for name in names}

    @cached_property
    def pair_scale(self) -> Scale | None:
        """For pairing map: MAP's scale over the pairs that best_worst makes."""
        if not self._gives_candidates or self._selection.pairing != "map":
            return None
        plain = {"pairing": "best_worst", "pairs_per_record": 1, "metric": "map", "metrics": (), "signals": Signals()}
        selection = self._selection.model_copy(update=plain)
        units = ScoredUnits(self.plan, self.families, self._store, selection)
        pairs = gather((piece.pairs for piece in units.read_numbers()), self.plan.num_rows, selection)
        return scale_of(pairs, selection)[0]

    def read(self, indices: Sequence[int] | I64 | None = None) -> Iterator[ScoredUnit]:
        """The units at these indices of the plan, in this order; by default all."""
        for index, families in self._read_families(range(len(self.plan.units)) if indices is None else indices, UNUSED):
            yield self._unit(index, families)

    def read_numbers(self) -> Iterator[ScoredUnit]:
        """All rows in the plan's order, many units as one, named by the first of them; detail is null, and so is
        pair_id unless it decides something.
        """
        with_ids = self.decisions.excluded is not None or self._selection.where is not None
        for index, families in self._read_joined(UNUSED | TEXTS - ({"pair_id"} if with_ids else set())):
            yield self._unit(index, families)

    def _read_records(self) -> Iterator[pa.Table]:
        """pair_id and completion_keys of all rows, many units as one."""
        ids, starts = [unit.id for unit in self.plan.units], self._first_rows - self.plan.first_row
        tables = self._store.read_all(self.families["records"], ids, UNUSED | {"prompt_key", "group", *COUNTED})
        for _, piece in groupby(zip(starts, tables), lambda unit: unit[0] // ROWS_AT_ONCE):
            yield pa.concat_tables([table for _, table in piece]).combine_chunks()

    def _read_joined(self, without: Set[str] = frozenset(UNUSED | TEXTS)) -> Iterator[tuple[int, dict[str, pa.Table]]]:
        units = self._read_families(range(len(self.plan.units)), without)
        first = self.plan.first_row
        for _, piece in groupby(units, lambda unit: (self._first_rows[unit[0]] - first) // ROWS_AT_ONCE):
            indices, parts = zip(*piece)
            joined = {name: pa.concat_tables([part[name] for part in parts]) for name in self.families}
            yield indices[0], {name: table.combine_chunks() for name, table in joined.items()}

    def _read_families(
        self, indices: Sequence[int] | I64, without: Set[str]
    ) -> Iterator[tuple[int, dict[str, pa.Table]]]:
        ids = [self.plan.units[index].id for index in indices]
        families = (self._store.read_all(fingerprint, ids, without) for fingerprint in self.families.values())
        for index, *tables in zip(indices, *families):
            unit = self.plan.units[index]
            for name, table in zip(self.families, tables):
                if table.num_rows != unit.num_rows:
                    raise MapjobError(
                        f"{table.num_rows} rows of {name} are stored for a unit of {unit.num_rows}",
                        f"unit {unit.id}: {unit.where}",
                        "remove the unit's files from the score store and run again",
                    )
            yield int(index), dict(zip(self.families, tables))

    @cached_property
    def pair_ids(self) -> "RowIds":
        """Of the rows of this plan."""
        ids = [unit.id for unit in self.plan.units]
        return RowIds(self._store, self.families["records"], self._first_rows, ids)

    def find(self, pair_id: str) -> list[tuple[int, int]]:
        """(position, pair_in_row) of the scored pairs with this id: one, unless ids repeat."""
        pairs = []
        for unit in self.read():
            here = np.flatnonzero(pc.equal(unit.pairs.pair_id, pair_id).fill_null(False))
            pairs += zip(unit.pairs.position[here].tolist(), unit.pairs.pair_in_row[here].tolist())
        return pairs

    def row(self, position: int) -> dict[str, str | None]:
        """pair_id, reason and detail of the row at a position of the corpus."""
        (unit,) = self.read([int(np.searchsorted(self._first_rows, position, side="right")) - 1])
        return unit.rows.slice(position - unit.first_row, 1).to_pylist()[0]

    def _unit(self, index: int, families: dict[str, pa.Table]) -> ScoredUnit:
        reason, detail = _first_reason(families)
        rows = pa.table({"pair_id": _text(families["records"], "pair_id"), "reason": reason, "detail": detail})
        flags = {
            f"{name}.{flag}": sum(chunk.true_count for chunk in table[flag].chunks)
            for name, table in families.items()
            for flag in FLAGS
            if flag in table.column_names
        }
        valid = np.flatnonzero(reason.is_null())
        valid_rows = _valid_rows(families, reason)
        first_row = int(self._first_rows[index])
        completions = completions_of(valid_rows, self.rewards)
        if self._gives_candidates:
            made = completions.by_pairing(self._selection, self.pair_scale)
        else:
            made = completions.by_label()
        pairs = pairs_of(valid_rows, valid + first_row, completions, made, several=self._selection.pairs_per_record > 1)
        if self.settled is not None:
            pairs = self.settled.apply(pairs)
        relabelled = np.zeros(len(pairs), bool)
        if self._selection.on_disagreement == "relabel":
            relabelled = pairs.contradicted(self._selection.votes)
            pairs = pairs.swap(relabelled)
        return ScoredUnit(index, first_row, rows, pairs, relabelled, flags)


@dataclass(frozen=True)
class RowIds:
    """The ids of rows by position, read when they are asked for. first_rows: as of a plan, units: their ids."""

    store: ScoreStore
    records: str
    first_rows: I64
    units: list[str]

    def __call__(self, positions: I64) -> pa.ChunkedArray:
        """pair_id of the rows at these positions of the corpus, which ascend."""
        edges = np.searchsorted(positions, self.first_rows)
        indices = np.flatnonzero(np.diff(edges))
        chunks = []
        for index, table in zip(indices, self.store.read_all(self.records, [self.units[index] for index in indices])):
            rows = positions[edges[index] : edges[index + 1]] - self.first_rows[index]
            chunks += table["pair_id"].take(pa.array(rows)).chunks
        return pa.chunked_array(chunks, pa.string())


def _first_reason(families: Mapping[str, pa.Table]) -> tuple[pa.Array, pa.Array]:
    """(reason, detail) per row by the first family that refused it; null if none did."""
    first, *others = families.values()
    reason, detail = _text(first, "reason"), _text(first, "detail")
    for table in others:
        if table["reason"].null_count < len(table):
            refused = reason.is_valid()
            detail = pc.if_else(refused, detail, _text(table, "detail"))
            reason = pc.if_else(refused, reason, _text(table, "reason"))
    return reason, detail


def _valid_rows(families: Mapping[str, pa.Table], reason: pa.Array) -> dict[str, pa.Table]:
    """The rows that no family refused, without what is counted over all rows."""
    tables = {name: table.drop_columns(COUNTED.intersection(table.column_names)) for name, table in families.items()}
    if reason.null_count == len(reason):
        return tables
    return {name: table.filter(reason.is_null()).combine_chunks() for name, table in tables.items()}

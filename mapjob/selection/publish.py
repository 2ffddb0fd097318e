"""From rows and reasons to the files of a run folder: `selected/` in rank order, `errors/` in corpus order."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob import collective
from mapjob.arrays import I64
from mapjob.config.run import OutputFormat
from mapjob.corpus.plan import Plan, check_unchanged, error_of_change, error_of_unnoticed_change, read_parts
from mapjob.corpus.reader import RowReader, read_records
from mapjob.corpus.records import Record, sanitize
from mapjob.corpus.text_columns import guess_texts, keys_of
from mapjob.errors import MapjobError, Reason
from mapjob.metrics.reward_augmented import prompt_with_goal
from mapjob.ranking.pairs import Pairs
from mapjob.selection.files import WrittenFile, find_equal, mark_rows, write_files
from mapjob.selection.formats import Pair, pair_columns, pair_of, readable, whole_columns
from mapjob.selection.rows import Rows
from mapjob.selection.scored import ScoredUnit, ScoredUnits
from mapjob.selection.spool import Part
from mapjob.store.run_folder import RunFolder

ERRORS = pa.schema(
    {"pair_id": pa.string(), "file": pa.string(), "row": pa.int64(), "reason": pa.string(), "detail": pa.string()}
)


@dataclass(frozen=True)
class Texts:
    """How the texts of rows are written. control: what is broken up in them (control_tokens: sanitize).

    system_role: stated goals (of reward-augmented rows) are system messages.
    """

    output_format: OutputFormat = "trl"
    control: re.Pattern[str] | None = None
    system_role: bool = True


def publish_rows(
    units: ScoredUnits, rows: Rows, texts: Texts, run: RunFolder, name: str, written: Sequence[WrittenFile] = ()
) -> int:
    """Write the rows of all pieces in their order as `<name>-00000-of-0000N.parquet`, …; each piece reads its own.
    Returns N.

    written: files of an unfinished run, whose rows are not read if they are these.
    """
    num_rows, marks = collective.total(len(rows)), rows.marks
    written, lacking = find_equal(written, rows.output_rows, marks)
    # An empty file still has columns: those of the first unit.
    is_empty = not num_rows and not written and collective.index() == 0
    if written:
        rows, marks = rows.take(np.flatnonzero(lacking)), marks[lacking]
    return write_files(
        lambda: _read_rows(units, rows, marks, texts, is_empty),
        num_rows,
        run,
        lambda number, total: f"{name}-{number:05}-of-{total:05}.parquet",
        written,
    )


def _read_rows(
    units: ScoredUnits, rows: Rows, marks: npt.NDArray[np.uint64], texts: Texts, is_empty: bool
) -> Iterator[Part]:
    """The rows with their texts; every unit that has any is read once."""
    in_corpus_order = np.argsort(rows.position, kind="stable")
    edges = np.searchsorted(rows.position[in_corpus_order], units.plan.first_rows)
    needed, reader = np.flatnonzero(np.diff(edges)) if not is_empty else np.zeros(1, np.int64), RowReader()
    for unit in units.read(needed):
        of_unit = in_corpus_order[edges[unit.index] : edges[unit.index + 1]]
        start = 0
        for table in rows_of_unit(units.plan, unit, rows.take(of_unit), texts, reader):
            some = of_unit[start : start + table.num_rows]
            yield Part(rows.output_rows[some], marks[some], table)
            start += table.num_rows


def rows_of_unit(
    plan: Plan, unit: ScoredUnit, rows: Rows, texts: Texts, reader: RowReader | None = None
) -> Iterator[pa.Table]:
    """Rows of one unit, in tables of not too many bytes: their texts in the output format, the user's columns, then
    mapjob's. rows: in corpus order. At least one table.
    """
    start = row = 0
    for part in read_parts(plan.units[unit.index], reader or RowReader()):
        stop = int(np.searchsorted(rows.position - unit.first_row, row + part.num_rows))
        if stop > start or (row == 0 and not len(rows)):
            some = rows.take(np.arange(start, stop))
            try:
                table = _write_rows(plan, unit, some, part.take(pa.array(some.position - unit.first_row - row)), texts)
            except MapjobError:
                check_unchanged(plan.units[unit.index])  # the better reason, if there is that one
                raise
            yield table
        start, row = stop, row + part.num_rows


def _write_rows(plan: Plan, unit: ScoredUnit, rows: Rows, table: pa.Table, texts: Texts) -> pa.Table:
    """table: the rows as the corpus has them."""
    pairs = rows.pairs_of(unit.pairs)
    ours = rows.our_columns(pairs)
    columns = _write_columns(plan, rows, pairs, table, texts)
    records = _read_scored(plan, unit, pairs, table) if columns is None else []
    if texts.output_format == "columns":
        # Which of the row's own sides they are: not 0 and 1 if sides were exchanged, or of candidates.
        for name, sides in (("chosen_index", pairs.chosen), ("rejected_index", pairs.rejected)):
            own = [record.order[side] if record.order else side for record, side in zip(records, sides.tolist())]
            ours[name] = pa.array(own if columns is None else sides, pa.int64())
        names = _user_names(plan, set(ours), replaced=())
        return pa.table(_user_columns(plan, table, names) | ours).replace_schema_metadata(_features(plan, names))
    if columns is None:
        columns = _write_records(plan, rows, pairs, records, texts)
    # No trainer may read a column under its name that was left out of what was scored.
    left_out = {*plan.corpus.reading.ignore} - {plan.corpus.columns.id, plan.corpus.columns.group}
    names = _user_names(plan, {*columns, *ours, *left_out}, plan.corpus.text_columns)
    users = _user_columns(plan, table, names)
    for name in plan.corpus.reading.template:
        users[name] = _for_template(users[name], texts.control)
    return pa.table({**columns, **users, **ours}).replace_schema_metadata(_features(plan, names))


def _write_columns(plan: Plan, rows: Rows, pairs: Pairs, table: pa.Table, texts: Texts) -> dict[str, pa.Array] | None:
    """The columns of the output format, from whole columns of the rows; None if those are not just what was scored."""
    whole = guess_texts(table, plan.corpus.reading)
    if whole is None or texts.control is not None or "reward_goal" in rows.after:
        return None
    if max(pairs.chosen.max(initial=0), pairs.rejected.max(initial=0)) > 1:
        return None
    if pairs.chosen.any() or not pairs.rejected.all():
        sides, index = pa.concat_arrays(whole[1:]), np.arange(len(table))
        whole[1:] = (sides.take(pa.array(side * len(table) + index)) for side in (pairs.chosen, pairs.rejected))
    columns = whole_columns(texts.output_format, plan.corpus.style, whole, plan.message_fields)
    try:
        return columns if columns is not None and np.array_equal(keys_of(whole), pairs.content_key) else None
    except UnicodeDecodeError:
        return None


def _read_scored(plan: Plan, unit: ScoredUnit, pairs: Pairs, table: pa.Table) -> list[Record]:
    """The records of the rows. Raises MapjobError if they are not what was scored."""
    records, source = list(map(readable, read_records(table, plan.corpus.reading))), plan.units[unit.index]
    # Its storage may not tell that it changed, or only by whole seconds; its rows do.
    sides = zip((record.completion_keys for record in records), pairs.chosen, pairs.rejected)
    keys = [[completion_keys[side] for side in of_row] for completion_keys, *of_row in sides]
    if not np.array_equal(np.array(keys, np.uint64).reshape(-1, 2), pairs.content_key):
        raise error_of_change(source) if source.identity is None else error_of_unnoticed_change(source)
    return records


def _write_records(
    plan: Plan, rows: Rows, pairs: Pairs, records: list[Record], texts: Texts
) -> dict[str, pa.ChunkedArray]:
    """The columns of the output format, from records."""
    written = [pair_of(record, plan.corpus, *sides) for record, *sides in zip(records, pairs.chosen, pairs.rejected)]
    if texts.control is not None:
        written = [Pair(*(sanitize(text, texts.control) for text in pair)) for pair in written]
    if "reward_goal" in rows.after:
        written = [
            pair._replace(prompt=prompt_with_goal(pair.prompt, goal, system_role=texts.system_role))
            for pair, goal in zip(written, rows.after["reward_goal"])
        ]
    return pair_columns(
        texts.output_format,
        plan.corpus.style,
        written,
        lambda i: "{}, row {}".format(*plan.locate(int(rows.position[i]))),
        plan.message_fields,
        [record.template for record in records],
    )


def _for_template(column: pa.Array | pa.ChunkedArray, control: re.Pattern[str] | None) -> pa.Array:
    """A column for the chat template as it was scored: null where a row gives nothing, and with its strings at any
    depth as sanitize had them; JSON in a string stays JSON.
    """

    def cell(value: Any) -> Any:
        given = json.loads(value) if isinstance(value, str) and value else value
        if not given:
            return None
        if control is None or (broken := sanitize(given, control)) == given:
            return value
        return json.dumps(broken, ensure_ascii=False) if isinstance(value, str) else broken

    return pa.array([cell(value) for value in column.to_pylist()], column.type)


def _user_names(plan: Plan, taken: set[str], replaced: Collection[str]) -> dict[str, str]:
    """Name in the output -> name in the corpus, of the user's columns except those replaced.

    `input_<name>` if a name is taken.
    """
    names = {}
    for own in plan.schema.names:
        name = own
        while name in taken or (name != own and name in plan.schema.names):
            name = f"input_{name}"
        if own not in replaced:
            names[name] = own
    return names


def _user_columns(plan: Plan, table: pa.Table, names: dict[str, str]) -> dict[str, pa.Array | pa.ChunkedArray]:
    """The user's columns in the common type of all files."""
    columns = {}
    for name, own in names.items():
        kind = plan.schema.field(own).type
        columns[name] = table[own].cast(kind) if own in table.column_names else pa.nulls(table.num_rows, kind)
    return columns


def _features(plan: Plan, names: dict[str, str]) -> dict[str, str]:
    """Schema metadata by which the library `datasets` decodes the user's columns (ClassLabel, Image) as before."""
    features = {name: plan.features[own] for name, own in names.items() if own in plan.features}
    return {"huggingface": json.dumps({"info": {"features": features}})} if features else {}


def publish_errors(
    units: ScoredUnits, refused: dict[Reason, I64], run: RunFolder, written: Sequence[WrittenFile] = ()
) -> int:
    """Write `errors/part-*.parquet`: one row per row of all pieces that is not ranked, in corpus order; no text.
    Returns how many files there are.

    refused: positions by reason, refused by scoring or dropped by a rule of the ranking. There is always at least
    one file; an empty one means no errors. written: as in `publish_rows`.
    """
    reasons = np.repeat(np.arange(len(refused)), [len(positions) for positions in refused.values()])
    positions = np.concatenate([np.zeros(0, np.int64), *refused.values()])
    order = np.argsort(positions)
    names, positions = np.array([reason.value for reason in refused], object)[reasons[order]], positions[order]
    output_rows = collective.before(len(positions)) + np.arange(len(positions))
    codes = np.array([list(Reason).index(reason) for reason in refused], np.int64)[reasons[order]]
    marks = mark_rows(output_rows, [positions, codes])
    written, lacking = find_equal(written, output_rows, marks)

    def parts() -> Iterator[Part]:
        yield Part(output_rows[:0], marks[:0], ERRORS.empty_table())
        edges = np.searchsorted(positions, units.plan.first_rows)
        edges = np.concatenate(([0], np.cumsum(lacking)))[edges]
        rows = np.flatnonzero(lacking)
        for unit in units.read(np.flatnonzero(np.diff(edges))):
            here = rows[edges[unit.index] : edges[unit.index + 1]]
            in_unit, source = positions[here] - unit.first_row, units.plan.units[unit.index]
            stored = unit.rows.take(pa.array(in_unit))
            columns = [
                stored["pair_id"],
                [source.name] * len(here),
                source.start + in_unit,
                names[here],
                stored["detail"],
            ]
            yield Part(output_rows[here], marks[here], pa.table(columns, schema=ERRORS))

    num_rows = collective.total(len(positions))
    return write_files(parts, num_rows, run, lambda number, _: f"errors/part-{number:05}.parquet", written)


def check_complete(plan: Plan, ranked: I64, refused: list[I64]) -> None:
    """Raises MapjobError unless each row of each unit is ranked (or held out) or refused, exactly once."""
    seen = np.bincount(np.concatenate([ranked, *refused]) - plan.first_row, minlength=plan.num_rows)
    wrong = np.flatnonzero(seen != (np.arange(len(seen)) < plan.num_rows))
    if len(wrong):
        raise MapjobError(
            f"{len(wrong)} rows are not accounted for exactly once",
            f"row {plan.first_row + wrong[0]} of the corpus, in reading order",
            "this is a fault of mapjob: no manifest was written; please report it",
        )

"""From a ranking to the files of a run folder: `selected/` in rank order, `errors/` in corpus order."""

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mapjob.corpus.control import sanitized
from mapjob.corpus.plan import Plan, Unit, read_unit
from mapjob.corpus.reader import read_records
from mapjob.corpus.records import Record
from mapjob.corpus.remote import explained
from mapjob.errors import MapjobError, Reason
from mapjob.ranking.order import I64
from mapjob.ranking.select import Pairs, Ranking
from mapjob.store.run_folder import RunFolder
from mapjob.store.tables import from_ipc, to_ipc

ROWS_PER_FILE = 50_000

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TRL_COLUMNS = ("prompt", "chosen", "rejected")


def publish_selected(
    plan: Plan, ranking: Ranking, metric: str, control: re.Pattern[str] | None, run: RunFolder
) -> None:
    """Write the selection as `selected/train-*.parquet`, in rank order across files.

    Every unit is read once; its selected rows wait on the local disk until their output file is assembled, so memory
    holds one unit and one output file whatever the size of the selection. `control` breaks up the control tokens that
    scoring broke up (control_tokens: sanitize).
    """
    kept = ranking.kept
    num_files = max(1, -(-len(kept) // ROWS_PER_FILE))
    in_corpus_order = np.argsort(ranking.pairs.position[kept], kind="stable")  # places in the selection
    edges = np.searchsorted(ranking.pairs.unit[kept][in_corpus_order], np.arange(len(plan.units) + 1))
    first_row = plan.first_rows
    with tempfile.TemporaryDirectory(prefix="mapjob-publish-") as folder:
        waiting: list[list[Path]] = [[] for _ in range(num_files)]
        for index, unit in enumerate(plan.units):
            places = in_corpus_order[edges[index] : edges[index + 1]]
            # An empty selection still has a file; its columns are those of the first unit.
            if not len(places) and (len(kept) or index):
                continue
            table = pair_rows(plan, unit, ranking, kept[places], first_row[index], metric, control)
            for number in np.unique(places // ROWS_PER_FILE) if len(places) else [0]:
                part = Path(folder) / f"{number}-{index}"
                try:
                    part.write_bytes(to_ipc(table.filter(pa.array(places // ROWS_PER_FILE == number))))
                except OSError as error:
                    raise explained(error, str(part), "written") from error
                waiting[number].append(part)
        for number, parts in enumerate(waiting):
            table = pa.concat_tables([from_ipc(part.read_bytes()) for part in parts]).sort_by("rank").combine_chunks()
            run.put_table(f"selected/train-{number:05}-of-{num_files:05}.parquet", table)


def pair_rows(
    plan: Plan, unit: Unit, ranking: Ranking, picked: I64, first_row: int, metric: str, control: re.Pattern[str] | None
) -> pa.Table:
    """Picked pairs of one unit: prompt/chosen/rejected as TRL reads them, the user's own columns, then ours."""
    pairs = ranking.pairs
    table = read_unit(unit).take(pa.array(pairs.position[picked] - first_row))
    records = read_records(table, plan.corpus.spec, plan.corpus.columns)
    texts = [
        _pair_texts(plan, record, c, r) for record, c, r in zip(records, pairs.chosen[picked], pairs.rejected[picked])
    ]
    if control is not None:
        texts = [tuple(sanitized(text, control) for text in row) for row in texts]
    kind = MESSAGES if plan.corpus.style == "chat" else pa.string()
    columns: dict[str, Any] = {name: pa.array([row[i] for row in texts], kind) for i, name in enumerate(TRL_COLUMNS)}
    ours = _our_columns(ranking, picked, metric)
    columns |= _own_columns(plan, table, {*TRL_COLUMNS, *ours})
    return pa.table(columns | ours)


def _pair_texts(plan: Plan, record: Any, chosen: int, rejected: int) -> tuple:
    if not isinstance(record, Record):
        raise MapjobError(
            f"a row that was scored cannot be read any more: {record}", "the corpus", "the files changed; run again"
        )
    if plan.corpus.style == "chat":
        record = plan.corpus.spec.to_chat(record)
    return record.prompt, record.completions[chosen], record.completions[rejected]


def _own_columns(plan: Plan, table: pa.Table, taken: set[str]) -> dict[str, pa.ChunkedArray]:
    """The user's columns under the common type of all files. One whose name is taken becomes `input_<name>`."""
    own = {}
    for field in plan.schema:
        if field.name in plan.corpus.text_columns:
            continue
        if field.name in table.column_names:
            column = table[field.name].cast(field.type)
        else:
            column = pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        name = field.name
        while name in taken or (name != field.name and name in plan.schema.names):
            name = f"input_{name}"
        own[name] = column
    return own


def _our_columns(ranking: Ranking, picked: I64, metric: str) -> dict[str, pa.Array]:
    pairs = ranking.pairs
    columns: dict[str, Any] = {
        "pair_id": pairs.pair_id.take(pa.array(picked)),
        "rank": ranking.rank[picked],
        "map_score": ranking.map_score[picked],
    }
    if metric != "map":
        columns[metric] = ranking.score[picked]
    for name, values in pairs.columns.items():
        columns[name] = values[picked].astype(np.int64) if name.endswith("num_tokens") else values[picked]
    columns["reward_margin"] = ranking.reward_margin[picked]
    columns["implicit_margin"] = ranking.implicit_margin[picked]
    columns["label_agrees"] = ranking.reward_margin[picked] > 0
    return {
        name: values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
        for name, values in columns.items()
    }


def error_rows(plan: Plan, errors: pa.Table, dropped: dict[Reason, Pairs]) -> pa.Table:
    """One row for each row that is not ranked, in corpus order: pair_id, file, row, reason, detail; no text.

    errors: what scoring refused (position, pair_id, reason, detail). dropped: what fell by a rule of the ranking.
    """
    parts = [errors.select(["position", "pair_id", "reason", "detail"])]
    for reason, pairs in dropped.items():
        nothing = pa.nulls(len(pairs), pa.string())
        reasons = pa.array([reason.value] * len(pairs), pa.string())
        parts.append(pa.table([pairs.position, pairs.pair_id, reasons, nothing], parts[0].column_names))
    table = pa.concat_tables(parts).sort_by("position")
    position = table["position"].to_numpy()
    first_row = plan.first_rows
    unit = np.searchsorted(first_row, position, side="right") - 1
    starts = np.array([u.start for u in plan.units])
    return pa.table(
        {
            "pair_id": table["pair_id"],
            "file": pa.array([plan.units[i].file for i in unit], pa.string()),
            "row": pa.array(starts[unit] + position - first_row[unit], pa.int64()),
            "reason": table["reason"],
            "detail": table["detail"],
        }
    )


def publish_errors(errors: pa.Table, run: RunFolder) -> None:
    """Write `errors/part-*.parquet`; there is always at least one file, so that an empty one says: no errors."""
    for number, start in enumerate(range(0, max(1, errors.num_rows), ROWS_PER_FILE)):
        run.put_table(f"errors/part-{number:05}.parquet", errors.slice(start, ROWS_PER_FILE).combine_chunks())


def check_complete(plan: Plan, ranked: I64, refused: list[I64]) -> None:
    """Raises MapjobError unless each row of each unit is ranked or refused, exactly once."""
    seen = np.bincount(np.concatenate([ranked, *refused]), minlength=plan.num_rows)
    if len(seen) != plan.num_rows or (seen != 1).any():
        wrong = [*np.flatnonzero(seen[: plan.num_rows] != 1), *range(plan.num_rows, len(seen))]
        raise MapjobError(
            f"{len(wrong)} rows are not accounted for exactly once",
            f"row {wrong[0]} of the corpus, in reading order",
            "this is a fault of mapjob: no manifest was written; please report it",
        )

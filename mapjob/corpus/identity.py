"""The reader's own columns: which pair a row is, which text it holds, which group it belongs to."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from mapjob.config import Columns
from mapjob.corpus.reader import python_rows
from mapjob.corpus.records import Record
from mapjob.errors import RowError

KEY = pa.binary(16)


def identity_table(table: pa.Table, records: Sequence[Record | RowError], columns: Columns) -> pa.Table:
    """One row for each row of `table`: pair_id, completion_keys, prompt_key, group, num_completions, reason, detail.

    pair_id is the corpus's own id where `columns.id` names a column that holds one, else the content key in hex, else
    (a row of which no pair can be made) null.
    """
    good = [record if isinstance(record, Record) else None for record in records]
    bad = [record if isinstance(record, RowError) else None for record in records]
    ids = pa.array([record.content_key.hex() if record else None for record in good], pa.string())
    if columns.id:
        ids = pc.coalesce(_as_text(table, columns.id), ids)
    groups = _as_text(table, columns.group) if columns.group else pa.nulls(table.num_rows, pa.string())
    return pa.table(
        {
            "pair_id": ids,
            "completion_keys": pa.array([r.completion_keys if r else None for r in good], pa.list_(pa.uint64())),
            "prompt_key": pa.array([r.prompt_key if r else None for r in good], KEY),
            "group": groups,
            "num_completions": pa.array([len(r.completions) if r else None for r in good], pa.int32()),
            "reason": pa.array([error.reason.value if error else None for error in bad], pa.string()),
            "detail": pa.array([error.detail if error else None for error in bad], pa.string()),
        }
    )


def _as_text(table: pa.Table, name: str) -> pa.ChunkedArray:
    values = [row and row[name] for row in python_rows(table.select([name]))]
    return pa.chunked_array([[None if value is None else str(value) for value in values]], pa.string())

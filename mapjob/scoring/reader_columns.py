"""What the reader makes of records and tokens for ranking, beside ids and keys: edit distances and signatures."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mapjob.corpus.records import Record, Text
from mapjob.errors import RowError
from mapjob.metrics.dcrm import edit_distances
from mapjob.scoring.encode import Encoded


def distance_table(encoded: Sequence[Encoded | RowError]) -> pa.Table:
    """One row a record: edit distances of every two completions, in tokens (see `edit_distances`); reason, detail."""
    distances = [None if isinstance(item, RowError) else edit_distances(item.completions) for item in encoded]
    return pa.table({"edit_distances": pa.array(distances, pa.list_(pa.int32())), **_reasons(encoded)})


def signature_table(records: Sequence[Record | RowError]) -> pa.Table:
    """One row a record: the MinHash signature of its prompt and completions; reason, detail."""
    from mapjob.metrics.minhash import NUM_HASHES, signature  # with datasketch and scipy, which few runs need

    signatures = [None if isinstance(item, RowError) else signature(_text(item)) for item in records]
    values = np.concatenate([each for each in signatures if each is not None] or [np.zeros(0, np.uint32)])
    offsets = np.cumsum([0] + [0 if each is None else NUM_HASHES for each in signatures]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
    return pa.table({"signature": lists, **_reasons(records)})


def _text(record: Record) -> str:
    return "\n".join(_plain(text) for text in (record.prompt, *record.completions))


def _plain(text: Text) -> str:
    return text if isinstance(text, str) else "\n".join(message["content"] for message in text)


def _reasons(rows: Sequence[object]) -> dict[str, pa.Array]:
    bad = [row if isinstance(row, RowError) else None for row in rows]
    return {
        "reason": pa.array([error.reason.value if error else None for error in bad], pa.string()),
        "detail": pa.array([error.detail if error else None for error in bad], pa.string()),
    }

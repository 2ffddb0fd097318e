"""Columns computed without a model: ids, keys and groups; edit distances in tokens; signatures of near duplicates."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.config.input import Columns
from mapjob.config.load import fingerprint
from mapjob.config.selection import Selection
from mapjob.corpus.plan import Corpus, read_unit
from mapjob.corpus.reader import RowReader, python_rows, read_records, reason_columns
from mapjob.corpus.records import Record, plain_text
from mapjob.corpus.units import Unit
from mapjob.errors import RowError
from mapjob.metrics.columns import DISTANCE
from mapjob.metrics.dcrm import edit_distances
from mapjob.scoring.spec import SCHEMA_VERSION, EncodingSpec

if TYPE_CHECKING:  # ranking asks for the specs alone, and encoding takes seconds to import
    from mapjob.scoring.encode import Encoded

RECORDS, EDIT_DISTANCE, NEAR_DUPLICATES = "records", "edit_distance", "near_duplicates"
KEY = pa.binary(16)


@dataclass(frozen=True)
class DerivedColumns:
    """One family of columns. identity: what can change a value; encoding: whose tokens it is made of."""

    name: str
    identity: dict[str, Any]
    encoding: EncodingSpec | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)


def derived_columns(
    corpus: Corpus, selection: Selection, identity_of_encoding: dict[str, Any], encoding: EncodingSpec | None = None
) -> list[DerivedColumns]:
    """The records (ids, content keys and groups, so that ranking never reads text again), and what the selection asks
    for: edit distances in the policy's tokens, and signatures of near duplicates.

    encoding: the policy's, of that identity; None where nothing is to be computed.
    """
    common = {"schema_version": SCHEMA_VERSION, "reading": corpus.identity}
    specs = [records_columns(corpus)]
    if DISTANCE in selection.scored_columns:
        identity = {**common, "kind": EDIT_DISTANCE, "encoding": identity_of_encoding}
        specs.append(DerivedColumns(EDIT_DISTANCE, identity, encoding))
    if selection.near_duplicates is not None:
        from mapjob.ranking.near_duplicates import COVERS  # with datasketch and scipy, which few runs need

        specs.append(DerivedColumns(NEAR_DUPLICATES, {**common, "kind": NEAR_DUPLICATES, "minhash": COVERS}))
    return specs


def records_columns(corpus: Corpus) -> DerivedColumns:
    columns = {"id": corpus.columns.id, "group": corpus.columns.group}
    common = {"schema_version": SCHEMA_VERSION, "reading": corpus.identity}
    return DerivedColumns(RECORDS, {**common, "kind": RECORDS, "columns": columns})


def distance_table(encoded: "Sequence[Encoded | RowError]") -> pa.Table:
    """One row per record: edit distances of every two completions, in tokens (see `edit_distances`); reason, detail."""
    distances = [None if isinstance(item, RowError) else edit_distances(item.completions) for item in encoded]
    return pa.table({"edit_distances": pa.array(distances, pa.list_(pa.int32())), **reason_columns(encoded)})


def signature_table(records: Sequence[Record | RowError]) -> pa.Table:
    """One row per record: the MinHash signature of its prompt and completions; reason, detail."""
    from mapjob.ranking.near_duplicates import NUM_HASHES, signature  # with datasketch and scipy, which few runs need

    good = [record for record in records if isinstance(record, Record)]
    texts = ("\n".join(plain_text(text) for text in (record.prompt, *record.completions)) for record in good)
    values = np.concatenate([np.zeros(0, np.uint32), *map(signature, texts)])
    offsets = np.cumsum([0] + [NUM_HASHES * isinstance(record, Record) for record in records]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
    return pa.table({"signature": lists, **reason_columns(records)})


def identity_table(table: pa.Table, records: Sequence[Record | RowError], columns: Columns) -> pa.Table:
    """One row per row of `table`: row_key, pair_id, completion_keys, prompt_key, group, num_completions, and reason and
    detail.

    row_key is null for a row that is no record. pair_id is the value of the column `columns.id` if there is one, else
    the content key in hex, else (for a row that is no record) null.
    """
    good = [record if isinstance(record, Record) else None for record in records]
    ids = pa.array([record.content_key.hex() if record else None for record in good], pa.string())
    if columns.id:
        ids = pc.coalesce(_as_text(table, columns.id), ids)
    groups = _as_text(table, columns.group) if columns.group else pa.nulls(table.num_rows, pa.string())
    return pa.table(
        {
            "row_key": pa.array([record.row_key if record else None for record in good], KEY),
            "pair_id": ids,
            "completion_keys": pa.array([r.completion_keys if r else None for r in good], pa.list_(pa.uint64())),
            "prompt_key": pa.array([r.prompt_key if r else None for r in good], KEY),
            "group": groups,
            "num_completions": pa.array([len(r.completions) if r else None for r in good], pa.int32()),
            **reason_columns(records),
        }
    )


def identify(unit: Unit, corpus: Corpus, reader: RowReader | None = None) -> tuple[str, pa.Table]:
    """(id of a unit, its records), by reading it. Raises IncompleteError if its file is not as it was planned."""
    table = read_unit(unit, reader or RowReader(corpus.own_columns))
    records = identity_table(table, read_records(table, corpus.reading, corpus.columns), corpus.columns)
    return unit_id(records), records


def unit_id(records: pa.Table) -> str:
    """The name of a unit: a hash of what its rows say, by the columns of `identity_table`; 20 hex digits."""
    keys = [key and key.hex() for key in records["row_key"].to_pylist()]
    names = [records[name].to_pylist() for name in ("pair_id", "group", "reason", "detail")]
    return hashlib.sha256(json.dumps([keys, *names]).encode()).hexdigest()[:20]


def _as_text(table: pa.Table, name: str) -> pa.ChunkedArray:
    values = [row and row[name] for row in python_rows(table.select([name]))]
    return pa.chunked_array([[None if value is None else str(value) for value in values]], pa.string())

"""What a file's footer and its first rows tell of it."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.corpus.footers import leaves, read_file, read_footer, without_views
from mapjob.corpus.forms import Conversions
from mapjob.corpus.listing import Listed
from mapjob.corpus.reader import read_rows, rows_of
from mapjob.corpus.units import SourceFile
from mapjob.errors import InputError

HEAD_ROWS = 20
LOCAL_HEADS = 32  # files whose first rows are looked at
SMALL_FILE = 8 << 20  # bytes, of a remote file that is fetched whole if its first rows are looked at
HEAD_BUFFER = 1 << 18  # bytes of a request for first rows: a page is seldom larger

log = logging.getLogger(__name__)


def look_at(
    file: Listed, known: SourceFile | None, content: str | None, conversions: Conversions, with_head: bool
) -> SourceFile:
    """What the footer of the file's Parquet says; without opening it, if that is known."""
    url = file.url if content is None else conversions.path(content)
    if known is not None and known.content == content:
        return replace(known, path=url)

    def read(opened: BinaryIO) -> SourceFile:
        metadata = read_footer(opened, url)
        schema = metadata.schema.to_arrow_schema()
        groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        features, filled = features_of(schema), _filled(metadata, schema)
        made = SourceFile(url, file, content, without_views(schema), groups, features=features, filled=filled)
        if not with_head or not made.num_rows or len({*schema.names}) < len(schema.names):
            return made
        return replace(made, head=rows_of(opened, metadata, 0, _head_rows(made), _head_columns(made), HEAD_BUFFER))

    size = file.size if content is None else None
    whole = with_head and "://" in url and size is not None and size <= SMALL_FILE
    made = read_file(url, read, "not a readable Parquet file", url, size, whole)
    for column in made.schema.names:
        if made.schema.names.count(column) > 1:
            raise InputError(f"two columns are called {column!r}", url, "rename one of them")
    return made


def with_heads(files: tuple[SourceFile, ...]) -> tuple[tuple[SourceFile, ...], tuple[pa.Table, ...]]:
    """(the files, the first rows of some of them)."""
    with_rows = [index for index, file in enumerate(files) if file.num_rows]
    looked_at, heads = list(files), []
    for index in spread(len(with_rows), all("://" not in file.path for file in files)):
        file = files[with_rows[index]]
        head = file.head
        if head is None:
            size = file.listed.size if file.content is None else None
            head = read_rows(file.path, 0, _head_rows(file), _head_columns(file), HEAD_BUFFER, size)
            looked_at[with_rows[index]] = replace(file, head=head)
        heads.append(head)
    return tuple(looked_at), tuple(heads)


def spread(number: int, are_local: bool) -> list[int]:
    """Which of so many files have their first rows looked at. Of remote ones three, such that on a corpus that grows at
    its end only the new file is another one.
    """
    last = number - 1
    if last < 1:
        return list(range(number))
    if not are_local:
        return sorted({0, 1 << (last.bit_length() - 1), last})
    most = min(number, LOCAL_HEADS)
    return sorted({round(i * last / max(1, most - 1)) for i in range(most)})


def _head_rows(file: SourceFile) -> int:
    return min(HEAD_ROWS, file.num_rows)


def _head_columns(file: SourceFile) -> list[str]:
    """Columns without bytes, which are no text and may be large."""
    return [field.name for field in file.schema if not _holds_bytes(field.type)]


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """The features of the library `datasets` in a schema's metadata, by column; empty if there are none.

    Those that cannot be read are left out of the selection, with a warning: they change how it is loaded, no score.
    """
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    try:
        features = json.loads(written)["info"]["features"]
        return dict(features or {})
    except (ValueError, KeyError, TypeError):
        log.warning("features of the library datasets (metadata huggingface) cannot be read, and are left out")
        return {}


def common_features(files: Sequence[SourceFile]) -> tuple[dict[str, Any], list[str]]:
    """(features of columns that are the same in every file with the column, columns that lose theirs)."""
    features: dict[str, Any] = {}
    differing: dict[str, list[Any]] = {}
    for file in files:
        for name in file.schema.names:
            feature = file.features.get(name)
            if features.setdefault(name, feature) != feature:
                differing.setdefault(name, []).extend([features[name], feature])
    common = {name: feature for name, feature in features.items() if feature is not None and name not in differing}
    # A plain value says no more than its type.
    said = [name for name, them in differing.items() if any(one and one.get("_type") != "Value" for one in them)]
    return common, said


def _filled(metadata: pq.FileMetaData, schema: pa.Schema) -> frozenset[str]:
    """Leaves that hold a value, by the footer's statistics; a leaf without them counts as filled."""
    columns = [(name, pa.types.is_null(kind)) for name, kind in leaves(schema)]
    if len(columns) != metadata.num_columns:
        return frozenset(name for name, _ in columns)
    filled = set()
    for group in range(metadata.num_row_groups):
        for index, (name, is_null) in enumerate(columns):
            if is_null or name in filled:
                continue
            column = metadata.row_group(group).column(index)
            has_count = column.is_stats_set and column.statistics.has_null_count
            if not has_count or column.statistics.null_count < column.num_values:
                filled.add(name)
    return frozenset(filled)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))

"""Files that list rows by their pair_id: a column `pair_id`, or one id per line."""

import gzip
import io
import os
import zlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.corpus.arrow_files import read_arrow
from mapjob.corpus.footers import read_footer
from mapjob.corpus.listing import ENDINGS
from mapjob.corpus.text_forms import csv_rows, json_rows
from mapjob.errors import ConfigError
from mapjob.escaping import first_line
from mapjob.store.storage import Storage

COLUMN = "pair_id"
DO = f"give one id per line (.txt), or CSV, JSONL or Parquet with a column {COLUMN}"


def read_ids(path: str) -> set[str]:
    """The ids that a file lists: Parquet, JSONL, JSON, CSV or TSV with a column `pair_id`; else one id per line.

    path: local, or an fsspec URL. Raises ConfigError for a file that is missing or has no such column, InputError for
    one that is malformed.
    """
    folder, _, name = path.rpartition("/") if "://" in path else os.path.abspath(path).rpartition("/")
    data = Storage(folder or "/").read(name)
    if data is None:
        raise ConfigError("there is no such file of ids", path, DO)
    form = next((form for ending, form in ENDINGS.items() if path.lower().endswith(ending)), None)
    try:
        values = _values(gzip.decompress(data) if path.lower().endswith(".gz") else data, form, path)
    except (pa.ArrowException, UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise ConfigError(f"this file of ids cannot be read: {first_line(error)}", path, DO) from None
    except KeyError:
        raise ConfigError(f"this file of ids has no column {COLUMN}", path, DO) from None
    return {str(value) for value in values if value is not None and value != ""}


def _values(data: bytes, form: str | None, path: str) -> list[Any]:
    file = io.BytesIO(data)
    if form is None:
        return [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    if form == "arrow":
        return read_arrow(file, path)[COLUMN].to_pylist()
    if form == "parquet":
        parquet = pq.ParquetFile(file, metadata=read_footer(file, path))
        return parquet.read([COLUMN], use_threads=False)[COLUMN].to_pylist()
    rows = json_rows(file, path) if form in ("json", "jsonl") else csv_rows(file, "\t" if form == "tsv" else ",", path)
    return [row[COLUMN] for row in list(rows)]

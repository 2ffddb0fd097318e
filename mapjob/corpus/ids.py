"""Files that list rows by their pair_id: a column `pair_id` and maybe others, or one id per line."""

import gzip
import io
import logging
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.corpus.arrow_files import read_arrow
from mapjob.corpus.footers import read_footer
from mapjob.corpus.listing import ENDINGS
from mapjob.corpus.text_forms import csv_rows, json_rows
from mapjob.errors import ConfigError, InputError
from mapjob.escaping import first_line, one_line
from mapjob.store.storage import Storage

log = logging.getLogger(__name__)

COLUMN = "pair_id"


def read_ids(path: str) -> set[str]:
    """The ids that a file lists, as `read_listed` has them; a file of another form holds one id per line. Warns of ids
    that are listed more than once.
    """
    listed = Counter(str(value) for (value,) in read_listed(path, [COLUMN]) if value is not None and value != "")
    if repeated := [pair_id for pair_id, number in listed.items() if number > 1]:
        example = one_line(repeated[0])
        log.warning(f"{path}: {len(repeated):,} of {len(listed):,} ids are listed more than once ({example})")
    return set(listed)


def read_listed(path: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """The cells of these columns, row by row, of a file of Parquet, Arrow, JSONL, JSON, CSV or TSV.

    path: local, or an fsspec URL. Raises ConfigError for a file that is missing or lacks a column, InputError for one
    that is malformed.
    """
    a_column = f"a column {columns[0]}" if len(columns) == 1 else f"the columns {' and '.join(columns)}"
    do = f"give CSV, JSONL or Parquet with {a_column}" + (", or one id per line (.txt)" if len(columns) == 1 else "")
    data = read_file(path, do)
    form = next((form for ending, form in ENDINGS.items() if path.lower().endswith(ending)), None)
    if form is None and len(columns) > 1:
        raise ConfigError("the name of this file does not tell its form", path, do)
    try:
        return _rows(gzip.decompress(data) if path.lower().endswith(".gz") else data, form, path, columns)
    except (pa.ArrowException, UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise ConfigError(f"this file of ids cannot be read: {first_line(error)}", path, do) from None
    except InputError as error:
        raise InputError(error.what, error.where, do) from None
    except KeyError as error:
        name = next((name for name in columns if name in str(error)), COLUMN)
        raise ConfigError(f"this file of ids has no column {name}", path, do) from None


def read_file(path: str, do: str) -> bytes:
    """The bytes of a local file or a URL. Raises ConfigError if there is none; do: then."""
    folder, _, name = path.rpartition("/") if "://" in path else os.path.abspath(path).rpartition("/")
    data = Storage(folder or "/").read(name)
    if data is None:
        raise ConfigError("there is no such file", path, do)
    return data


def _rows(data: bytes, form: str | None, path: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    file = io.BytesIO(data)
    if form is None:
        return [(line.strip(),) for line in data.decode("utf-8-sig").splitlines()]
    if form in ("arrow", "parquet"):
        if form == "arrow":
            table = read_arrow(file, path)
        else:
            parquet = pq.ParquetFile(file, metadata=read_footer(file, path))
            names = [name for name in columns if name in parquet.schema_arrow.names]
            table = parquet.read(names, use_threads=False)
        return list(zip(*(table[name].to_pylist() for name in columns)))
    if form in ("json", "jsonl"):
        return [tuple(row[name] for name in columns) for row in list(json_rows(file, path))]
    # A spreadsheet writes what its country has between cells.
    header = data.partition(b"\n")[0]
    delimiter = "\t" if form == "tsv" else ";" if b";" in header and b"," not in header else ","
    rows = list(csv_rows(file, delimiter, path))
    # Files that are meant for spreadsheets have an apostrophe before every id, so that it is left as it is. People add
    # rows to them, which have none, and spreadsheets leave empty rows.
    ids = [row[COLUMN] for row in rows]
    if 2 * sum(one.startswith("'") for one in ids) > sum(map(bool, ids)):
        ids = [one.removeprefix("'") for one in ids]
    return [tuple(one if name == COLUMN else row[name] for name in columns) for one, row in zip(ids, rows)]

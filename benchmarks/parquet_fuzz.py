"""What becomes of a flipped byte in a Parquet file: `python -m benchmarks.parquet_fuzz [--flips N]`.

A shard of a synthetic corpus is written in several ways, with and without page checksums. In each copy one random byte
is changed, and the copy is planned and read as in a run. mapjob's own files (scores/, selected/) are read as such. The
flips run in a separate process, so that a crash or a hang is seen, counted and skipped.
"""

import argparse
import faulthandler
import io
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.config.input import Input
from mapjob.corpus.plan import Plan, make_plan, read_unit
from mapjob.corpus.reader import python_rows, read_records
from mapjob.corpus.records import Record
from mapjob.errors import MapjobError, Reason, RowError
from mapjob.lab.world.corpus import make_rows
from mapjob.store.tables import from_parquet, to_parquet

OURS = "ours"
DELTA = {"prompt": "DELTA_BYTE_ARRAY", "chosen": "DELTA_LENGTH_BYTE_ARRAY", "rejected": "DELTA_BYTE_ARRAY"}
WRITERS: dict[str, dict[str, Any]] = {
    "uncompressed plain": {"compression": "none", "use_dictionary": False},
    "uncompressed dictionary": {"compression": "none"},
    "snappy dictionary": {"compression": "snappy"},
    "gzip plain": {"compression": "gzip", "use_dictionary": False},
    "lz4 dictionary": {"compression": "lz4"},
    "zstd delta, pages 2.0": {
        **{"compression": "zstd", "use_dictionary": False, "column_encoding": DELTA, "data_page_version": "2.0"}
    },
}
KINDS = [OURS, *(f"{name}{sums}" for name in WRITERS for sums in (", checksums", ""))]
OUTCOMES = ("error", "same rows", "error rows", "other columns", "other rows", "traceback", "crash", "hang")
HANG_S = 60


def write(kind: str) -> bytes:
    """The shard as one of KINDS: 300 rows in row groups of 120, pages of a few kilobytes."""
    table = pa.Table.from_pylist([vars(row) for row in make_rows(300, 0.1, seed=0)])
    if kind == OURS:
        return to_parquet(table)
    buffer = io.BytesIO()
    name = kind.removesuffix(", checksums")
    pq.write_table(
        table, buffer, row_group_size=120, data_page_size=4096, write_page_checksum=name != kind, **WRITERS[name]
    )
    return buffer.getvalue()


def flipped(data: bytes, kind: str, number: int) -> bytes:
    """The file with one byte changed; kind and number determine which, and to what."""
    rng = random.Random(f"{kind} {number}")
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :]


class Reader:
    """Compares what a run reads of a copy with what it reads of the intact file."""

    def __init__(self, kind: str, folder: Path):
        self._kind, self._file = kind, folder / "shard.parquet"
        plan, self._table = self._read(write(kind))
        self._content = _content(plan, self._table) if plan else []

    def outcome(self, data: bytes) -> str:
        try:
            plan, table = self._read(data)
        except (MapjobError, pa.ArrowException) as error:
            # from_parquet rejects a file of ours with an ArrowException, which the score store turns into MapjobError.
            return "error" if isinstance(error, MapjobError) or self._kind == OURS else "traceback"
        except Exception:  # noqa: BLE001 - what this benchmark looks for
            return "traceback"
        if not table.schema.equals(self._table.schema):
            return "other columns"
        if table.equals(self._table):
            return "same rows"
        if plan is None:
            return "other rows"
        differ = [row for row, intact in zip(_content(plan, table), self._content) if row != intact]
        if not differ:
            return "same rows"
        return "error rows" if all(isinstance(record, Reason) for record, _ in differ) else "other rows"

    def _read(self, data: bytes) -> tuple[Plan | None, pa.Table]:
        if self._kind == OURS:
            return None, from_parquet(data)
        self._file.write_bytes(data)
        plan = make_plan(Input(path=str(self._file)), True, rows_per_unit=200)
        return plan, pa.concat_tables([read_unit(unit) for unit in plan.units])


def _content(plan: Plan, table: pa.Table) -> list[tuple[Record | Reason, dict[str, Any] | None]]:
    """Per row what is scored, or the reason why it is not, and all its columns."""
    records = read_records(table, plan.corpus.reading)
    return list(zip([r.reason if isinstance(r, RowError) else r for r in records], python_rows(table)))


def outcomes(kind: str, flips: int) -> Counter[str]:
    """Counts per outcome (one of OUTCOMES) of the first `flips` flips of a kind."""
    counted: Counter[str] = Counter()
    while (done := counted.total()) < flips:
        command = [sys.executable, "-m", "benchmarks.parquet_fuzz", "--child", kind, str(done), str(flips)]
        child = subprocess.run(command, capture_output=True, text=True)
        ended = child.stdout.splitlines()
        counted.update(ended)
        if done + len(ended) < flips:
            counted["hang" if "Timeout" in child.stderr else "crash"] += 1
            print(f"{kind}, flip {done + len(ended)}:\n{child.stderr[-2000:]}", file=sys.stderr)
    return counted


def _child(kind: str, first: int, stop: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        reader, data = Reader(kind, Path(folder)), write(kind)
        for number in range(first, stop):
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            print(reader.outcome(flipped(data, kind, number)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=2000, help="flips per kind of file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, first, stop = arguments.child
        _child(kind, int(first), int(stop))
        return
    print(f"{'file':<34}" + "".join(f"{name:>{len(name) + 2}}" for name in OUTCOMES))
    for kind in KINDS:
        counted = outcomes(kind, arguments.flips)
        print(f"{kind:<34}" + "".join(f"{counted[name]:>{len(name) + 2},}" for name in OUTCOMES), flush=True)


if __name__ == "__main__":
    main()

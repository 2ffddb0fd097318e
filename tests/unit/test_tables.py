"""Tables as bytes."""

import subprocess
import sys

import pyarrow as pa
import pytest

from mapjob.store.tables import from_parquet, to_parquet

TABLE = pa.table({"pair_id": ["a", "b"], "chosen": [[{"role": "user", "content": "x"}]] * 2, "rank": [1, 2]})

READS = """
import os, sys
from mapjob.store.tables import from_parquet
before = os.listdir("/proc/self/task")
from_parquet(sys.stdin.buffer.read(), ["chosen"])
assert os.listdir("/proc/self/task") == before
"""


def test_columns_come_in_the_order_asked_for():
    assert from_parquet(to_parquet(TABLE)).equals(TABLE)
    assert from_parquet(to_parquet(TABLE), ["rank", "chosen"]).equals(TABLE.select(["rank", "chosen"]))


def test_a_column_that_is_not_there():
    with pytest.raises(KeyError, match="none"):
        from_parquet(to_parquet(TABLE), ["rank", "none"])


def test_reading_leaves_no_thread_behind():
    """One that still holds the file's bytes when Python ends aborts the process, now and then."""
    done = subprocess.run([sys.executable, "-c", READS], input=to_parquet(TABLE), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()

"""The reader's own columns: pair ids, keys, groups and reasons, one row for each row of the unit."""

import numpy as np
import pyarrow as pa

from mapjob.config.input import Columns
from mapjob.corpus.reader import read_records
from mapjob.ranking.order import rank_order
from mapjob.scoring.reader_families import identity_table
from tests.readings import READINGS

TABLE = pa.table(
    {
        "prompt": ["p", "p", "q", None],
        "chosen": ["a", "b", "a", "a"],
        "rejected": ["b", "a", "b", "b"],
        "number": [3, 1, None, 2],
        "source": ["x", None, "y", "x"],
    }
)


def identity(**columns: str) -> pa.Table:
    names = Columns(**columns)
    return identity_table(TABLE, read_records(TABLE, READINGS["trl"]), names)


def test_one_row_each_with_keys_or_a_reason():
    rows = identity().to_pylist()
    assert [row["num_completions"] for row in rows] == [2, 2, 2, None]
    assert [row["reason"] for row in rows] == [None, None, None, "null_field"]
    assert "prompt" in rows[3]["detail"]
    assert rows[0]["prompt_key"] == rows[1]["prompt_key"] != rows[2]["prompt_key"]
    assert rows[0]["completion_keys"] == rows[1]["completion_keys"][::-1]
    assert not set(rows[0]["completion_keys"]) & set(rows[2]["completion_keys"])
    assert rows[3]["completion_keys"] is rows[3]["prompt_key"] is rows[3]["pair_id"] is None


def test_pair_id_is_the_content_key_in_hex():
    for row, record in zip(identity().to_pylist()[:3], read_records(TABLE, READINGS["trl"])):
        assert row["pair_id"] == record.content_key.hex()


def test_the_corpus_own_id_and_group_become_text():
    table = identity(id="number", group="source")
    assert table["pair_id"].to_pylist()[:2] == ["3", "1"]
    assert table["pair_id"].to_pylist()[3] == "2"
    assert table["group"].to_pylist() == ["x", None, "y", "x"]


def test_rows_whose_own_id_is_null_can_be_ranked():
    """A tie of scores is settled by pair_id, so a good row whose id is null must not end the run."""
    ids = identity(id="number")["pair_id"].slice(0, 3)
    order = rank_order(np.zeros(3), ids.take, np.zeros(3, bool)).tolist()
    assert sorted(order) == [0, 1, 2]
    assert order.index(1) < order.index(0)

"""Files of pair_ids: every form gives the same ids, to the letter."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from mapjob.corpus.ids import read_ids
from mapjob.errors import ConfigError, InputError

IDS = ["a", "007", "1e3", "é, ü"]


def write(folder: Path, name: str) -> str:
    path = folder / name
    table = pa.table({"other": [1, 2, 3, 4], "pair_id": IDS})
    if name.endswith(".parquet"):
        pq.write_table(table, path)
    elif name.endswith(".arrow"):
        feather.write_feather(table, path, compression="uncompressed")
    elif name.endswith(".csv"):
        path.write_text("other,pair_id\n" + "".join(f'1,"{name}"\n' for name in IDS), encoding="utf-8-sig")
    elif name.endswith(".tsv"):
        path.write_text("pair_id\n" + "".join(f"{name}\n" for name in IDS))
    elif name.endswith(".json"):
        path.write_text(json.dumps([{"pair_id": name} for name in IDS]))
    elif ".jsonl" in name:
        data = "".join(json.dumps({"pair_id": name, "why": None}) + "\n" for name in IDS).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    else:
        path.write_text("\n".join([*IDS, "", " a ", ""]), encoding="utf-8-sig")
    return str(path)


NAMES = ["i.txt", "ids", "i.csv", "i.tsv", "i.jsonl", "i.jsonl.gz", "i.json", "i.parquet", "i.arrow"]


@pytest.mark.parametrize("name", NAMES)
def test_every_form_gives_the_same_ids(tmp_path, name):
    assert read_ids(write(tmp_path, name)) == set(IDS)


def test_whole_numbers_are_ids_too(tmp_path):
    pq.write_table(pa.table({"pair_id": [7, None, 8]}), tmp_path / "i.parquet")
    (tmp_path / "i.jsonl").write_text('{"pair_id": 7}\n{"pair_id": 8}\n')
    assert read_ids(f"{tmp_path}/i.parquet") == read_ids(f"{tmp_path}/i.jsonl") == {"7", "8"}


@pytest.mark.parametrize(
    ("name", "data", "error", "what"),
    [
        ("none.txt", None, ConfigError, "no such file"),
        ("i.csv", b"id\n1\n", ConfigError, "no column pair_id"),
        ("i.jsonl", b'{"id": 1}\n', ConfigError, "no column pair_id"),
        ("i.jsonl", b"{", InputError, "malformed JSON"),
        ("i.parquet", b"PAR1", ConfigError, "cannot be read"),
        ("i.jsonl.gz", b"{}", ConfigError, "cannot be read"),
        ("i.txt", b"\xff\xfe", ConfigError, "cannot be read"),
    ],
)
def test_a_file_that_lists_no_ids_is_named(tmp_path, name, data, error, what):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=what) as raised:
        read_ids(str(tmp_path / name))
    assert name in raised.value.where


def test_rows_that_people_add_to_a_file_of_apostrophes_and_empty_ones_change_no_id(tmp_path):
    (tmp_path / "i.csv").write_text("pair_id,verdict\n'007,swap\n'MAR1,keep\n''a,drop\n,\nb,drop\n")
    assert read_ids(f"{tmp_path}/i.csv") == {"007", "MAR1", "'a", "b"}
    (tmp_path / "i.csv").write_text("pair_id\n'a\nb\nc\n")
    assert read_ids(f"{tmp_path}/i.csv") == {"'a", "b", "c"}, "its own apostrophe, in a file that mapjob did not write"


def test_ids_that_are_listed_again_are_counted(tmp_path, caplog):
    (tmp_path / "i.txt").write_text("a\nb\na\nb\nc\na\n")
    assert read_ids(f"{tmp_path}/i.txt") == {"a", "b", "c"}
    assert "2 of 3 ids are listed more than once (a)" in caplog.text
    caplog.clear()
    read_ids(write(tmp_path, "i.csv"))
    assert not caplog.text


def test_a_malformed_file_of_ids_is_not_taken_for_one_of_the_corpus(tmp_path):
    (tmp_path / "i.csv").write_text("pair_id,why\na\n")
    with pytest.raises(InputError, match="1 cells in a row, 2 in the header") as raised:
        read_ids(f"{tmp_path}/i.csv")
    assert "input.path" not in raised.value.do

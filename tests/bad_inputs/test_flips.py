"""Single flipped bytes; `python -m benchmarks.parquet_fuzz` makes ten times as many, of more kinds of files."""

import shutil

import pytest

from benchmarks.parquet_fuzz import KINDS, OURS, outcomes, write
from mapjob.errors import MapjobError
from mapjob.store.run_folder import RunFolder
from mapjob.store.score_store import ScoreStore
from tests.bad_inputs.conftest import pairs

FLIPS = 200
CHECKED = "zstd delta, pages 2.0, checksums"
UNCHECKED = "snappy dictionary"


def test_flips_in_our_own_files():
    assert outcomes(OURS, FLIPS) == {"error": FLIPS}


def test_flips_in_a_corpus_with_page_checksums():
    """Only the footer lacks a checksum: there a byte can change the name of a column that is passed on."""
    counted = outcomes(CHECKED, FLIPS)
    assert set(counted) <= {"error", "same rows", "other columns"}
    assert counted["other columns"] <= FLIPS / 50
    assert counted["error"] > FLIPS / 2


def test_flips_in_a_corpus_without():
    """Parquet has nothing here by which another letter could be seen; what can be seen is an error."""
    counted = outcomes(UNCHECKED, FLIPS)
    assert not {"crash", "hang", "traceback"} & set(counted)
    assert counted["error"] + counted["error rows"] > FLIPS / 3


def test_the_two_kinds_are_among_those_of_the_benchmark():
    assert {CHECKED, UNCHECKED, OURS} <= set(KINDS)
    assert write(CHECKED) != write(CHECKED.removesuffix(", checksums"))


@pytest.mark.parametrize("place", [0, 100, -40, -9, -6, -1])
def test_a_flip_is_reported_with_the_file_and_what_to_do(tmp_path, place):
    store, run = ScoreStore(str(tmp_path)), RunFolder(str(tmp_path), "run")
    store.commit("f" * 16, "a" * 20, pairs(5))
    run.put_table("selected/train-00000-of-00001.parquet", pairs(5))
    reads = (lambda: store.read("f" * 16, "a" * 20), lambda: run.read_table("selected/train-00000-of-00001.parquet"))
    for file, read in zip(sorted(tmp_path.rglob("*.parquet"), reverse=True), reads):
        assert read().num_rows == 5
        data = bytearray(file.read_bytes())
        data[place] ^= 4
        file.write_bytes(data)
        with pytest.raises(MapjobError, match="damaged") as caught:
            read()
        assert caught.value.where == str(file)


def test_other_readers_take_our_files_as_they_are(tmp_path):
    """The digest lies where a reader of Parquet does not look."""
    import pandas
    from datasets import load_dataset

    RunFolder(str(tmp_path), "run").put_table("selected/train-00000-of-00001.parquet", pairs(5))
    (file,) = tmp_path.rglob("*.parquet")
    assert pandas.read_parquet(file).to_dict("list") == pairs(5).to_pydict()
    shutil.copy(file, tmp_path / "train.parquet")
    loaded = load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].to_dict() == pairs(5).to_pydict()

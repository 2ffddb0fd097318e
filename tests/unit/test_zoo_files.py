"""The zoo at the level of files: those are read that ought to be, with every row, or the set is refused by name."""

import json
from pathlib import Path

import pytest

from mapjob.config.input import Input
from mapjob.corpus.files import find_files
from mapjob.corpus.reader import read_rows
from mapjob.errors import InputError

REFUSED = {
    "several_configs": "helpful/ has prompt, chosen, rejected; sft/ has messages",
    "ultrafeedback_binarized": "test_gen, test_prefs, test_sft, train_gen, train_prefs, train_sft",
    "array2d_column": "'embedding' is of the extension type",
}
SPLITS = {"ultrafeedback_binarized": "train_prefs"}


def cases(zoo: Path) -> list[str]:
    return sorted(folder.name for folder in zoo.iterdir() if folder.is_dir())


def test_every_row_that_ought_to_be_read_is_read_and_no_other(shared):
    wrong = {}
    for case in cases(shared / "zoo"):
        expected = json.loads((shared / "zoo" / case / "expected.json").read_text())
        source = Input(path=str(shared / "zoo" / case / "corpus"), split=SPLITS.get(case))
        if case in REFUSED and case not in SPLITS:
            with pytest.raises(InputError) as caught:
                find_files(source, None)
            assert REFUSED[case] in caught.value.what
        elif expected is not None:
            rows = sum(file.num_rows for file in find_files(source, None).files)
            if rows != len(expected):
                wrong[case] = (rows, len(expected))
    assert wrong == {}


@pytest.mark.parametrize("case", ["jsonl", "jsonl_file", "csv", "trl_ultrafeedback_binarized", "key_order_differs"])
def test_rows_stand_in_their_order(shared, case):
    expected = json.loads((shared / "zoo" / case / "expected.json").read_text())
    files = find_files(Input(path=str(shared / "zoo" / case / "corpus")), None).files
    rows = [row for file in files for row in read_rows(file.path, 0, file.num_rows).to_pylist()]
    for row, right in zip(rows, expected, strict=True):
        assert right["chosen"][-1]["content"] in str(row["chosen"]).replace("\\n", "\n")
        assert right["rejected"][-1]["content"] in str(row["rejected"]).replace("\\n", "\n")


def test_a_split_that_the_zoo_does_not_name_by_train_is_asked_for(shared):
    path = str(shared / "zoo" / "ultrafeedback_binarized" / "corpus")
    with pytest.raises(InputError, match=REFUSED["ultrafeedback_binarized"]):
        find_files(Input(path=path), None)
    (file,) = find_files(Input(path=path, split="train_prefs"), None).files
    assert file.name == "data/train_prefs-00000-of-00001.parquet"

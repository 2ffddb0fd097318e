"""Splits: told by the README's configs or by file names; `train` alone unless the run file says otherwise."""

from pathlib import Path

import pytest

from mapjob.config.input import Input
from mapjob.corpus.files import CorpusFiles, find_files
from mapjob.corpus.splits import by_name, read_configs
from mapjob.errors import ConfigError, InputError
from tests.unit.test_plan import pairs, write


def corpus(folder: Path, *names: str, readme: str = "") -> str:
    for name in names:
        write(folder / name, pairs(1))
    if readme:
        (folder / "README.md").write_text(f"---\n{readme}\n---\n# A set\n")
    return str(folder)


def found(path: str | list[str], split: str | list[str] | None = None) -> CorpusFiles:
    return find_files(Input(path=path, split=split), None)


def names(path: str | list[str], split: str | list[str] | None = None) -> list[str]:
    return [file.name for file in found(path, split).files]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("train_prefs-00000-of-00003.parquet", "train_prefs"),
        ("data/ultrafeedback-test_sft-00001-of-00003.arrow", "test_sft"),
        ("train.jsonl.gz", "train"),
        ("my-TRAIN_2.csv", "train"),
        ("rm_test_v3.parquet", "test"),
        ("training.parquet", "train"),
        ("dev.jsonl", "validation"),
        ("evaluation.json", "test"),
        ("default/train/0000.parquet", "train"),
        ("default/train_prefs/0000.parquet", "train_prefs"),
        ("train/data-00000-of-00002.arrow", "train"),
        ("validation/part/7.parquet", "validation"),
        ("test/train-0.parquet", "train"),
        ("data-00000-of-00002.parquet", None),
        ("pretrained.parquet", None),
        ("latest.parquet", None),
        ("developers.csv", None),
        ("train_vs_test.parquet", None),
    ],
)
def test_the_split_that_a_name_tells(name, split):
    assert by_name(name) == (frozenset() if split is None else {split})


def test_train_alone_is_read_and_what_is_left_out_is_told(tmp_path):
    path = corpus(tmp_path, *(f"data/{s}-0000{i}-of-00002.parquet" for s in ("train", "test") for i in range(2)))
    assert names(path) == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert found(path).notes == ("split train: 2 files; left out: test (2 files)",)


def test_files_without_a_split_are_no_part_of_train(tmp_path):
    path = corpus(tmp_path, "train.parquet", "more.parquet")
    assert names(path) == ["train.parquet"]
    assert found(path).notes == ("split train: 1 file; left out: 1 file without a split (more.parquet)",)


def test_the_only_split_is_taken_and_told(tmp_path):
    path = corpus(tmp_path, "test_0.parquet", "test_1.parquet")
    assert found(path).notes == ("split test: 2 files",)
    assert len(names(path)) == 2


def test_files_that_name_no_split_are_all_read(tmp_path):
    assert names(corpus(tmp_path, "a.parquet", "date=2024-01-01/b.parquet")) == [
        "a.parquet",
        "date=2024-01-01/b.parquet",
    ]


@pytest.mark.parametrize(
    "files", [("train_prefs-0-of-1.parquet", "train_sft-0-of-1.parquet"), ("a.parquet", "test.parquet")]
)
def test_splits_without_train_are_asked_for(tmp_path, files):
    with pytest.raises(InputError, match="none of them is `train`") as caught:
        found(corpus(tmp_path, *files))
    assert "input.split" in caught.value.do
    assert "or all" in caught.value.do


def test_the_run_file_names_one_several_or_all(tmp_path):
    path = corpus(tmp_path, "train.parquet", "test.parquet", "dev.parquet", "more.parquet")
    assert names(path, "test") == ["test.parquet"]
    assert names(path, "dev") == names(path, "validation") == ["dev.parquet"]
    assert names(path, ["train", "test"]) == ["test.parquet", "train.parquet"]
    assert len(names(path, "all")) == 4
    with pytest.raises(ConfigError, match="no split holdout: there are test, train, validation"):
        found(path, ["train", "holdout"])


def test_a_split_of_files_that_name_none_is_an_error_of_the_run_file(tmp_path):
    with pytest.raises(ConfigError, match="no file names a split"):
        found(corpus(tmp_path, "a.parquet"), "train")


def test_a_file_that_is_named_is_taken_as_it_is(tmp_path):
    path = corpus(tmp_path, "test.parquet", "train.parquet")
    assert names(f"{path}/test.parquet") == ["test.parquet"]
    assert len(names([f"{path}/test.parquet", f"{path}/train.parquet"])) == 2


def test_each_path_has_splits_of_its_own(tmp_path):
    one = corpus(tmp_path / "one", "train.parquet", "test.parquet")
    two = corpus(tmp_path / "two", "pairs.parquet")
    assert names([one, two]) == [f"{one}/train.parquet", f"{two}/pairs.parquet"]
    assert found([one, two]).notes == (f"{one}: split train: 1 file; left out: test (1 file)",)
    assert names([one, two], "test") == [f"{one}/test.parquet"]


def test_missing_shards_are_told(tmp_path):
    path = corpus(tmp_path, *(f"d/train-0000{i}-of-00003.parquet" for i in (0, 2)), "e/train-00000-of-00001.parquet")
    assert found(path).notes == ("split train: 3 files", "only 2 of the 3 shards d/train-*-of-* are here")


# READMEs

FORMS = {
    "list of splits": "data_files: [{split: train, path: 'd/a-*'}, {split: test, path: [d/b.parquet, 'd/c*']}]",
    "dict": "data_files: {train: 'd/a-*', test: [d/b.parquet, d/c.parquet]}",
    "data_dir": "data_dir: d\n  data_files: {train: 'a-*', test: ['[bc]*.parquet']}",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_readme_says_which_files_are_of_which_split(tmp_path, form):
    files = ("d/a-test.parquet", "d/b.parquet", "d/c.parquet", "x/train.parquet")
    path = corpus(tmp_path, *files, readme=f"configs:\n- config_name: default\n  {FORMS[form]}")
    assert names(path) == ["d/a-test.parquet"]
    assert found(path).notes[:1] == ("passed over: 1 file that the README's config does not name (x/train.parquet)",)
    assert names(path, "test") == ["d/b.parquet", "d/c.parquet"]
    assert names(path, "all") == ["d/a-test.parquet", "d/b.parquet", "d/c.parquet"]


@pytest.mark.parametrize("files", ["'*.parquet'", "['*.parquet']"])
def test_a_pattern_without_a_split_is_train(tmp_path, files):
    path = corpus(tmp_path, "a.parquet", "test.parquet", readme=f"configs: [{{config_name: x, data_files: {files}}}]")
    assert names(path) == ["a.parquet", "test.parquet"]


def test_several_configs_are_refused_with_their_folders(tmp_path):
    readme = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files: [{{split: train, path: '{name}/train-*'}}]\n" for name in ("one", "two")
    )
    path = corpus(tmp_path, "one/train-0.parquet", "two/train-0.parquet", readme=readme)
    with pytest.raises(InputError, match="2 configs: one, two") as caught:
        found(path)
    assert f"{path}/two/" in caught.value.do
    assert names(f"{path}/two/") == ["train-0.parquet"]
    assert names(f"{path}/one/*.parquet") == ["train-0.parquet"]


def test_a_readme_about_other_files_is_told_and_names_decide(tmp_path):
    path = corpus(tmp_path, "train.parquet", "test.parquet", readme="configs: [{config_name: x, data_files: 'y/*'}]")
    assert names(path) == ["train.parquet"]
    assert "the README's configs name none of these files: splits go by file names" in found(path).notes


@pytest.mark.parametrize(
    "text", ["", "# no front matter", "---\nlicense: mit\n---\n", "---\nconfigs: null\n---\n", "---\n- a\n---\n"]
)
def test_a_readme_without_configs(text):
    assert read_configs(text) == []


@pytest.mark.parametrize("text", ["---\n: [\n---\n", "---\nconfigs: 3\n---\n", "---\nconfigs: [a]\n---\n"])
def test_a_readme_whose_configs_cannot_be_understood_is_refused(text):
    with pytest.raises(InputError, match=r"not valid YAML|no list of configs") as caught:
        read_configs(text)
    assert caught.value.where == "README.md"


def test_folders_with_other_columns_are_several_data_sets(tmp_path):
    write(tmp_path / "helpful" / "train.parquet", pairs(1))
    write(tmp_path / "sft" / "train.parquet", pairs(1).rename_columns(["a", "b", "c"]))
    with pytest.raises(InputError, match="different columns") as caught:
        found(str(tmp_path))
    assert f"{tmp_path}/helpful" in caught.value.do
    assert len(names([f"{tmp_path}/helpful", f"{tmp_path}/sft"])) == 2


def test_partitions_are_one_corpus_whatever_columns_come_and_go(tmp_path):
    write(tmp_path / "date=1" / "a.parquet", pairs(1))
    write(tmp_path / "date=2" / "a.parquet", pairs(1).append_column("more", [["x"]]))
    assert len(names(str(tmp_path))) == 2

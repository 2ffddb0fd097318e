"""A corpus by its name on the hub: splits, configs, revisions, and the branch that the hub converts to Parquet."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from huggingface_hub import constants

from mapjob.config.input import Input
from mapjob.config.load import parse_config
from mapjob.corpus.files import CorpusFiles, find_files
from mapjob.corpus.listing import CONVERTED
from mapjob.corpus.marks import mark_now
from mapjob.corpus.plan import make_plan, read_unit
from mapjob.errors import ConfigError, IncompleteError, InputError
from mapjob.store.remote import filesystem
from mapjob.store.tables import to_parquet
from tests.cli.conftest import Mapjob
from tests.cli.hub import Hub, hub
from tests.without_ray import run

README = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
---
# Pairs
"""


def rows(what: str, number: int) -> pa.Table:
    names = ("prompt", "chosen", "rejected")
    return pa.table({name: [f"{what} {name} {i} says some words" for i in range(number)] for name in names})


def lines(what: str, number: int) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows(what, number).to_pylist()).encode()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as kept:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, kept.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", kept.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        filesystem.cache_clear()
        kept.repositories["org/pairs", "main"] = {
            "README.md": README,
            ".gitattributes": b"",
            "data/train-00000-of-00001.parquet": to_parquet(rows("train", 8)),
            "data/test-00000-of-00001.parquet": to_parquet(rows("test", 4)),
        }
        kept.repositories["org/pairs", "v1"] = {"train.parquet": to_parquet(rows("old", 3))}
        yield kept
        filesystem.cache_clear()


def test_init_writes_a_run_file_for_it(served: Hub, here: Mapjob, tmp_path: Path) -> None:
    done = here("init", "org/pairs@v1", "--policy", "p", "--reward", "r", "--out", tmp_path / "run.yaml")
    assert done.returncode == 0, done.stderr
    written = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert written["input"]["path"] == "org/pairs@v1"
    assert written["output"]["path"] == "output/pairs"


def found(path: str, split: str | None = None) -> CorpusFiles:
    return find_files(Input(path=path, split=split), None)


def names(path: str, split: str | None = None) -> list[str]:
    return [file.name for file in found(path, split).files]


def test_train_alone_is_taken_from_a_name(served: Hub):
    made = found("org/pairs")
    (file,) = made.files
    assert (file.name, file.num_rows) == ("data/train-00000-of-00001.parquet", 8)
    assert file.path == "hf://datasets/org/pairs/data/train-00000-of-00001.parquet"
    assert made.notes == (
        "beside the data: .gitattributes, README.md",
        "split train: 1 file; left out: test (1 file)",
    )
    assert names("org/pairs", "test") == ["data/test-00000-of-00001.parquet"]
    assert names("hf://datasets/org/pairs") == names("hf://org/pairs") == [file.name]
    assert names("hf://datasets/org/pairs/data", "test") == ["test-00000-of-00001.parquet"]
    assert names("hf://datasets/org/pairs/data/test-*.parquet") == ["test-00000-of-00001.parquet"]


def test_a_revision(served: Hub):
    assert [(file.name, file.num_rows) for file in found("org/pairs@v1").files] == [("train.parquet", 3)]
    for path in ("org/pairs@v2", "org/nothing", "hf://datasets/org/pairs/nowhere"):
        with pytest.raises(ConfigError, match="no such data set, revision or folder") as caught:
            found(path)
        assert caught.value.where == f"input.path: {path}"


def test_a_hub_that_does_not_answer_is_no_traceback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("mapjob.store.remote.FIRST_WAIT_S", 0.0)
    filesystem.cache_clear()
    with pytest.raises(IncompleteError, match="there is no local path data/pairs; on the hub: the storage did not"):
        found("data/pairs")
    filesystem.cache_clear()


def test_rows_are_read_and_a_change_is_seen(served: Hub):
    plan = make_plan(Input(path="org/pairs"), True, 100)
    (unit,) = plan.units
    assert read_unit(unit).to_pylist() == rows("train", 8).to_pylist()
    before = mark_now(unit.file)
    served.repositories["org/pairs", "main"]["data/train-00000-of-00001.parquet"] = to_parquet(rows("thief", 8))
    assert mark_now(unit.file) != before
    with pytest.raises((IncompleteError, InputError)):
        read_unit(unit)


def test_without_parquet_the_converted_branch_is_read(served: Hub):
    served.repositories["org/lines", "main"] = {"train.jsonl": lines("train", 2), "test.jsonl": lines("test", 1)}
    assert names("org/lines") == ["train.jsonl"]
    assert names("org/lines", "test") == ["test.jsonl"]
    converted = {f"default/{split}/0000.parquet": to_parquet(rows(split, 5)) for split in ("train", "test")}
    served.repositories["org/lines", CONVERTED] = converted
    filesystem.cache_clear()
    filesystem("hf://datasets/org/lines")[0].invalidate_cache()
    made = found("org/lines")
    assert [(file.name, file.num_rows) for file in made.files] == [("default/train/0000.parquet", 5)]
    assert made.files[0].path == f"hf://datasets/org/lines@{CONVERTED}/default/train/0000.parquet"
    assert made.notes[0].startswith("org/lines has no Parquet files of its own: read from refs/convert/parquet")
    assert names("org/lines@main") == ["train.jsonl"]


def test_a_converted_part_is_not_read_and_several_configs_are_asked_for(served: Hub):
    served.repositories["org/part", "main"] = {"train.jsonl": lines("train", 2)}
    served.repositories["org/part", CONVERTED] = {"default/partial-train/0000.parquet": to_parquet(rows("train", 1))}
    assert names("org/part") == ["train.jsonl"]
    served.repositories["org/two", "main"] = {"one.jsonl": lines("train", 2)}
    served.repositories["org/two", CONVERTED] = {
        f"{config}/train/0000.parquet": to_parquet(rows(config, 1)) for config in ("one", "two")
    }
    with pytest.raises(InputError, match="2 configs: one, two") as caught:
        found("org/two")
    (way,) = [word for word in caught.value.do.replace(",", "").split() if word.endswith("/two")]
    assert names(way) == ["train/0000.parquet"]


def test_a_run_from_a_name(mapjob: Mapjob, run_file: Callable[..., Path], served: Hub) -> None:
    served.repositories["org/lines", "main"] = {"train.jsonl": lines("train", 6), "test.jsonl": lines("test", 2)}
    environment = {**os.environ, "HF_ENDPOINT": served.url, "HF_HUB_OFFLINE": "0", "COLUMNS": "160"}
    for name, count in (("org/pairs", 8), ("org/lines", 6)):
        path = run_file(input={"path": name})
        result = mapjob("run", path, "--json", env=environment, program="tests.without_ray")
        assert result.returncode == 0, result.stderr
        assert "split train: 1 file; left out: test (1 file)" in result.stderr
        assert json.loads(result.stdout.splitlines()[-1])["counts"]["rows"] == count
    read = len([request for request in served.requests if "/resolve/" in request])
    again = mapjob("run", path, "--json", env=environment, program="tests.without_ray")
    assert again.returncode == 0, again.stderr
    assert len([request for request in served.requests if "/resolve/" in request]) == read, "no byte is read again"


def test_one_label_turned_round_in_a_file_of_the_same_size_is_noticed(
    run_file: Callable[..., Path], served: Hub
) -> None:
    files = served.repositories["org/pairs", "main"]
    tree = yaml.safe_load(run_file(input={"path": "org/pairs"}).read_text())
    first = run(parse_config(tree))
    table = rows("train", 8)
    sides = {name: table[name].to_pylist() for name in ("chosen", "rejected")}
    sides["chosen"][3], sides["rejected"][3] = sides["rejected"][3], sides["chosen"][3]
    files["data/train-00000-of-00001.parquet"] = to_parquet(pa.table({"prompt": table["prompt"], **sides}))
    second = run(parse_config(tree))
    assert second["run_id"] != first["run_id"]
    assert (first["spent"]["scored_rows"], second["spent"]["scored_rows"]) == (8, 1)

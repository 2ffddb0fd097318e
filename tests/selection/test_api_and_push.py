"""mapjob from Python, and a finished run on its way to the hub (a small HTTP stand-in of it)."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

import mapjob
from mapjob.config.load import parse_config
from mapjob.errors import ConfigError
from mapjob.store.run_folder import path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.selection.hub import Hub, hub
from tests.without_ray import run


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pushed")
    models = make_policy(folder / "policy"), make_reward(folder / "reward")
    tree = config_tree(write_corpus(folder / "in", make_pairs(50)), folder / "out", *models)
    tree["execution"]["rows_per_unit"] = 20
    return {**tree, "input": {**tree["input"], "columns": {"group": "source"}}}


@pytest.fixture(scope="module")
def run_path(tree) -> str:
    return path_of(run(parse_config(tree)))


def test_all_scores_in_rank_order(tree, run_path):
    table = mapjob.load_scores(run_path)
    assert mapjob.load_scores(tree["output"]["path"]).equals(table)
    assert table["rank"].to_pylist() == list(range(1, 51))
    selected = pq.read_table(f"{run_path}/selected")
    assert table["selected"].to_pylist() == [True] * 20 + [False] * 30
    for name in selected.column_names:
        if name in table.column_names:
            assert table[name].to_pylist()[:20] == selected[name].to_pylist()
    assert set(table["group"].to_pylist()) == {"group 0", "group 1", "group 2"}
    assert not {"prompt", "chosen", "rejected"} & set(table.column_names)
    assert table.to_pandas()["map_score"].is_monotonic_decreasing
    assert datasets.Dataset(table).num_rows == 50


def test_the_same_words_from_python(tree, run_path, tmp_path):
    again = mapjob.run(tree)
    assert path_of(again) == run_path
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**tree, "selection": {"keep": {"count": 3}}}))
    assert mapjob.rank(str(file))["counts"]["selected"] == 3
    with pytest.raises(ConfigError, match="unknown key"):
        mapjob.run({**tree, "modles": {}})
    with pytest.raises(AttributeError):
        mapjob.runn  # noqa: B018


def test_importing_mapjob_is_cheap():
    program = "import mapjob, sys; print(sorted({'torch', 'ray', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.fixture
def there() -> Iterator[Hub]:
    with hub() as there:
        yield there


def push(there: Hub, *arguments: str, token: str = "hf_right") -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_ENDPOINT": there.url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "COLUMNS": "160"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-m", "mapjob", "push", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_finished_run_arrives_whole_and_private(there, run_path):
    result = push(there, run_path, "org/pairs")
    assert result.returncode == 0, result.stderr
    assert there.repositories == {"org/pairs": True}
    files = {str(f.relative_to(run_path)): f.read_bytes() for f in Path(run_path).rglob("*") if f.is_file()}
    assert there.files["org/pairs"] == files
    assert f"{there.url}/datasets/org/pairs" in result.stdout


def test_public_only_when_asked_for(there, run_path):
    there.repositories["org/open"] = False
    refused = push(there, run_path, "org/open")
    assert refused.returncode == 2
    assert "already exists and is public" in refused.stderr
    assert not there.files
    assert push(there, run_path, "org/open", "--public").returncode == 0
    assert "manifest.json" in there.files["org/open"]


def test_an_unfinished_run_and_a_wrong_token_are_refused(there, run_path, tmp_path):
    unfinished = push(there, str(tmp_path), "org/pairs")
    assert unfinished.returncode == 2
    assert "no finished run" in unfinished.stderr
    assert not there.repositories
    wrong = push(there, run_path, "org/pairs", token="hf_wrong")
    assert wrong.returncode == 2
    assert "log in" in wrong.stderr
    assert "hf_wrong" not in wrong.stderr + wrong.stdout
    assert "Traceback" not in wrong.stderr


def test_a_hub_that_is_not_there(there, run_path):
    there.url = "http://127.0.0.1:1"
    result = push(there, run_path, "org/pairs")
    assert result.returncode == 2
    assert "the hub rejected the upload" in result.stderr
    assert "Traceback" not in result.stderr

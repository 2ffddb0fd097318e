"""Weights, tokenizers and adapters that are replaced: never a number under the name of other weights."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from mapjob.config.load import parse_config
from mapjob.config.run import Model
from mapjob.errors import IncompleteError
from mapjob.job.prepare import Job, name_units_here, prepare
from mapjob.pipeline.actors import ReadAndEncode, ScorerActor
from mapjob.pipeline.attempts import Attempts
from mapjob.scoring.contents import Stamp
from mapjob.scoring.model_files import model_files
from mapjob.scoring.models import load_model
from mapjob.scoring.tokenizers import load_tokenizer
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, make_thinking_tokenizer, write_corpus
from tests.golden.test_adapters import make_adapter
from tests.without_ray import run

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy, and beside it other weights of the same size."""
    make_policy(tmp_path / "other", seed=90)
    return make_policy(tmp_path / "policy", seed=91)  # of no other test, since those share what is loaded


def replace_weights(folder: Path, other: Path, name: str = "model.safetensors") -> None:
    """By a file of the same size and time."""
    stat = (folder / name).stat()
    assert (other / name).stat().st_size == stat.st_size
    os.utime(other / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(other / name, folder / name)


def files_of(folder: Path, adapter: Path | None = None):
    return model_files(Model(path=str(folder), dtype="float32", adapter=adapter and str(adapter)), "policy")


def job_of(tmp_path: Path) -> Job:
    corpus, reward = write_corpus(tmp_path / "in", make_pairs(20)), make_reward(tmp_path / "reward")
    tree = config_tree(corpus, tmp_path / "out", tmp_path / "policy", reward)
    return name_units_here(prepare(parse_config(tree)))


def test_two_plans_in_one_process_tell_replaced_weights_apart(folder, monkeypatch):
    monkeypatch.setattr("mapjob.scoring.contents.SETTLED_NS", 0)  # everything is remembered that may be
    before = files_of(folder).weights_hash
    assert files_of(folder).weights_hash == before
    replace_weights(folder, folder.parent / "other")
    assert files_of(folder).weights_hash != before


def test_what_was_just_written_is_read_again(folder, monkeypatch):
    """Even where stat tells nothing: the same inode, size and time."""
    now = time.time_ns()
    monkeypatch.setattr("mapjob.scoring.contents.Stamp.of", lambda file: Stamp(str(file), 1, now, now, 1))
    before, data = files_of(folder).weights_hash, (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert files_of(folder).weights_hash != before


def test_a_second_run_after_weights_were_replaced_scores_with_the_new_ones(folder, tmp_path):
    job = job_of(tmp_path)
    first = run(job.config)
    replace_weights(folder, tmp_path / "other")
    second = run(job.config)
    assert first["fingerprints"]["policy"] != second["fingerprints"]["policy"]
    assert first["fingerprints"]["reward"] == second["fingerprints"]["reward"]
    assert second["spent"]["scored_rows"] == 20


def test_weights_replaced_between_planning_and_loading_are_not_scored_with(folder, tmp_path):
    files = files_of(folder)
    replace_weights(folder, tmp_path / "other")
    with pytest.raises(IncompleteError, match="weights of the model changed") as caught:
        load_model(files, "logps", "policy", CPU)
    assert caught.value.where == f"models.policy.path: {folder}"
    assert "same command" in caught.value.do


def test_half_written_weights_are_a_change_and_no_damage(folder):
    files = files_of(folder)
    (folder / "model.safetensors").write_bytes(b"\x80\0\0\0\0\0\0\0{")
    with pytest.raises(IncompleteError, match="weights of the model changed"):
        load_model(files, "logps", "policy", CPU)


def test_weights_replaced_while_a_run_scores_end_it_before_they_are_stored(folder, tmp_path):
    job = job_of(tmp_path)
    read = ReadAndEncode(job.plan.corpus, job.derived, job.scorers, Attempts())
    actor = ScorerActor([job.scorers[0]], "auto", 0, Attempts())
    first, *later = [read(pa.Table.from_pylist([item.row])) for item in job.todo()]
    assert "policy" in actor(first).column_names
    replace_weights(folder, tmp_path / "other")
    assert later
    with pytest.raises(IncompleteError, match="weights of the model changed"):
        actor(later[0])


def test_files_that_are_only_touched_are_the_same_model(folder):
    files = files_of(folder)
    os.utime(folder / "model.safetensors")
    load_model(files, "logps", "policy", CPU)
    assert files_of(folder) == files


def test_a_worker_reads_no_weights_for_their_hash_again(folder, monkeypatch):
    monkeypatch.setattr("mapjob.scoring.contents.SETTLED_NS", 0)
    files = files_of(folder)
    monkeypatch.setattr("mapjob.scoring.contents._digests", {})  # as in another process
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("a file is read again"))
    files.check_unchanged("policy")


def test_a_tokenizer_replaced_between_planning_and_loading(folder):
    files = files_of(folder)
    make_thinking_tokenizer().save_pretrained(folder)
    with pytest.raises(IncompleteError, match="the tokenizer changed"):
        load_tokenizer(files)


def test_an_adapter_replaced_between_planning_and_loading(folder, tmp_path):
    adapter, other = (make_adapter(tmp_path / f"lora-{seed}", folder, seed=seed) for seed in (3, 4))
    files = files_of(folder, adapter)
    replace_weights(adapter, other, "adapter_model.safetensors")
    with pytest.raises(IncompleteError, match="the adapter changed") as caught:
        load_model(files, "logps", "policy", CPU)
    assert str(adapter) in caught.value.where

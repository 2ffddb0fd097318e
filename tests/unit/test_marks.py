"""Marks: what tells that a file changed, for every kind of storage; and files of a storage that tells nothing."""

import os
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.input import Input
from mapjob.config.load import parse_config
from mapjob.corpus import listing, marks
from mapjob.corpus.marks import mark_now, mark_of
from mapjob.corpus.plan import make_plan
from mapjob.errors import IncompleteError
from mapjob.job.prepare import prepare_for_ranking
from mapjob.job.rank import pick_rows, rank_scored
from mapjob.scoring.reader_families import identify
from tests.fakes import config_tree, make_policy, make_reward
from tests.without_ray import run


@pytest.mark.parametrize(
    ("info", "mark"),
    [
        ({"size": 3, "ETag": '"a1"', "LastModified": "today"}, '"a1"'),
        ({"size": 3, "blob_id": "b2", "lfs": {"sha256": "c3"}}, "b2"),
        ({"size": 3, "lfs": {"sha256": "c3"}}, "c3"),
        ({"size": 3, "xet_hash": "d4"}, "d4"),
        ({"size": 3, "Last-Modified": "Tue"}, "3-Tue"),
        ({"size": 3, "mtime": 17.5}, "3-17.5"),
        ({"size": 3, "ETag": "", "mtime": 0}, None),
        ({"size": 3}, None),
    ],
)
def test_a_checksum_comes_before_times_and_size_alone_is_no_mark(info: dict[str, Any], mark: str | None) -> None:
    assert mark_of(info) == mark


def test_a_file_that_is_written_over_with_its_old_time_has_another_mark(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    at, before = file.stat(), mark_now(str(file))
    file.write_text("two")
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (at.st_size, at.st_mtime_ns)
    assert mark_now(str(file)) != before


def write(label: str) -> None:
    rows = [{"prompt": f"p{i}", "chosen": f"{label} {i}", "rejected": f"worse {i}"} for i in range(6)]
    with fsspec.filesystem("memory").open("/corpus/a.parquet", "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows), file)


def test_files_without_a_mark_are_told_apart_by_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("good")
    source, output = Input(path="memory://corpus", plain_text="raw"), str(tmp_path / "out")
    plan = make_plan(source, False, 3, output=output)
    assert [unit.identity for unit in plan.units] == [None, None]
    named = plan.with_ids({i: identify(unit, plan.corpus)[0] for i, unit in enumerate(plan.units)})
    named.keep(output)
    assert len(make_plan(source, False, 3, output=output).unnamed) == 2, "it may have changed, so it is read again"
    write("fine")
    assert identify(plan.units[0], plan.corpus)[0] != named.units[0].id


def test_texts_of_a_file_without_a_mark_are_published_only_if_they_are_those_that_were_scored(tmp_path: Path) -> None:
    write("good")
    models = make_policy(tmp_path / "policy"), make_reward(tmp_path / "reward")
    config = parse_config(config_tree("memory://corpus", tmp_path / "out", *models))
    assert run(config)["counts"]["selected"] > 0
    job = prepare_for_ranking(config, None)
    scored, ranking = rank_scored(job)
    assert len(pick_rows(job, scored, ranking, np.arange(2))) == 2
    write("fine")
    with pytest.raises(IncompleteError, match="the file changed after the run had planned it"):
        pick_rows(job, scored, ranking, np.arange(2))


def test_texts_that_changed_in_a_file_of_the_same_mark_do_not_get_the_numbers_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over HTTP, or SFTP: sizes and times that say nothing."""
    write("good")
    monkeypatch.setattr(marks, "mark_of", lambda info: "3-Tue")
    monkeypatch.setattr(listing, "mark_of", lambda info: "3-Tue")
    models = make_policy(tmp_path / "policy"), make_reward(tmp_path / "reward")
    tree = config_tree("memory://corpus", tmp_path / "out", *models)
    run(parse_config(tree))
    write("fine")
    with pytest.raises(IncompleteError, match="these rows are not those that were scored"):
        run(parse_config({**tree, "selection": {"alpha": 2.5}}))

"""`mapjob run --log-to`: the real trackers without a server where they are installed, and trackers that fail."""

import re
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mapjob.cli.app import app
from mapjob.errors import ConfigError
from mapjob.report.tracked import line_of, log_run, numbers
from mapjob.store.run_folder import path_of


def logged(caplog, manifest, tracker: str, timeout_s: float = 300.0) -> str:
    caplog.set_level("INFO", "mapjob")
    log_run(path_of(manifest), tracker, timeout_s)
    (record,) = caplog.records
    return f"{record.levelname}: {record.message}"


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_the_numbers_and_the_report_are_there(caplog, manifest, page, tmp_path, monkeypatch, tracker):
    if find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed (pip install '.[{tracker}]'): logging to it is not tested")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": tmp_path, "TRACKIO_DIR": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    assert logged(caplog, manifest, tracker) == f"INFO: logged to {tracker}"
    assert page in [file.read_text() for file in tmp_path.rglob("*.html")]
    stored = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for part in (manifest["run_id"], "counts/selected", "statistics/cut_off", "spent/seconds/rank"):
        assert part.encode() in stored, part


def test_the_nights_of_an_output_are_steps_of_one_run(caplog, manifest, tmp_path, monkeypatch):
    if find_spec("trackio") is None:
        pytest.skip("trackio is not installed (pip install '.[trackio]'): logging to it is not tested")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    for _ in range(2):
        assert logged(caplog, manifest, "trackio") == "INFO: logged to trackio"
        caplog.clear()
    (database,) = tmp_path.rglob("mapjob.db")
    with sqlite3.connect(database) as connection:
        steps = connection.execute("SELECT run_name, step FROM metrics ORDER BY step").fetchall()
    assert steps == [(line_of(manifest["config"]["output"]["path"]), step) for step in range(2)]


def test_outputs_have_names_of_their_own():
    names = {line_of(path) for path in ("s3://a/out", "s3://b/out", "/data/out run:1")}
    assert len(names) == 3
    assert all(re.fullmatch(r"out[\w-]*-[0-9a-f]{16}", name) for name in names)


def test_every_count_is_a_number(manifest):
    found = numbers(manifest)
    assert found["counts/ranked"] == manifest["counts"]["ranked"]
    assert found["counts/by_reason/duplicate"] == 1
    assert found["statistics/scale/reward"] == manifest["statistics"]["scale"]["reward"]
    assert found["measures/contradicted"] == manifest["measures"]["contradicted"]
    assert found["spent/seconds/rank"] == manifest["spent"]["seconds"]["rank"]
    assert all(isinstance(value, int | float) for value in found.values())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("def init(**_): raise RuntimeError('no key')", "exit code 1: RuntimeError: no key"),
        ("import os; os._exit(3)", "exit code 3"),
        ("import time; time.sleep(600)", "no end after 8 s"),
    ],
)
def test_a_tracker_that_fails_changes_nothing(caplog, manifest, tmp_path, monkeypatch, body, why):
    (tmp_path / "wandb.py").write_text(body)
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    line = logged(caplog, manifest, "wandb", 8.0 if "sleep" in body else 300.0)
    assert line.startswith("WARNING: the run is committed, but logging to wandb failed (")
    assert why in line


def test_a_tracker_that_is_not_installed_is_refused_before_the_run(monkeypatch):
    monkeypatch.setattr("mapjob.errors.find_spec", lambda package: None)
    refused = CliRunner().invoke(app, ["run", "no such run.yaml", "--log-to", "wandb"]).exception
    assert isinstance(refused, ConfigError)
    assert "wandb, which is not installed" in refused.what
    assert "--log-to" in refused.where
    assert "pip install" in refused.do


def test_the_command_line_knows_two():
    refused = CliRunner().invoke(app, ["run", "run.yaml", "--log-to", "tensorboard"])
    assert refused.exit_code == 2

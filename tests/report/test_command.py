"""`mapjob report`."""

import json
import shutil
from pathlib import Path

from typer.testing import CliRunner

from mapjob.cli.app import app
from mapjob.errors import ConfigError, MapjobError
from mapjob.store.run_folder import path_of
from tests.report.conftest import PLANTED


def test_it_writes_the_report_again(manifest, page, tmp_path):
    file = tmp_path / "again.html"
    result = CliRunner().invoke(app, ["report", path_of(manifest), "--out", str(file)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"report: {file}\n"
    assert file.read_text() == page
    result = CliRunner().invoke(app, ["report", path_of(manifest), "--examples", "1", "--out", str(file)])
    assert result.exit_code == 0, result.output
    assert PLANTED in file.read_text()
    assert PLANTED not in (Path(path_of(manifest)) / "report.html").read_text()


def test_the_run_folder_is_all_it_needs(manifest, page, tmp_path):
    """Copied to where nothing else of the run is: no scores, no corpus, no models."""
    folder = tmp_path / "kept" / "runs" / manifest["run_id"]
    shutil.copytree(path_of(manifest), folder)
    gone = json.loads((folder / "manifest.json").read_text())
    gone["config"]["input"]["path"] = gone["config"]["output"]["path"] = "/nowhere"
    gone["config"]["models"]["policy"]["path"] = "/nowhere"
    (folder / "manifest.json").write_text(json.dumps(gone))
    (folder / "report.html").unlink()
    file = tmp_path / "again.html"
    for examples in ("0", "2"):
        result = CliRunner().invoke(app, ["report", str(folder), "--examples", examples, "--out", str(file)])
        assert result.exit_code == 0, result.output
        assert (file.read_text() == page) == (examples == "0")
    assert "rank 1" in file.read_text()


def test_a_run_folder_without_its_report_data(manifest, tmp_path):
    folder = tmp_path / "kept" / "runs" / "map-0"
    shutil.copytree(path_of(manifest), folder)
    (folder / "report.json").unlink()
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "again.html")])
    assert isinstance(result.exception, MapjobError)
    assert result.exception.where == f"{folder}/report.json"


def test_a_file_that_cannot_be_written(manifest, tmp_path):
    output = tmp_path / "nowhere" / "report.html"
    result = CliRunner().invoke(app, ["report", path_of(manifest), "--out", str(output)])
    assert isinstance(result.exception, ConfigError)
    assert result.exception.where == f"--out {output}"


def test_a_folder_without_a_run(tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert "no finished run" in result.exception.what

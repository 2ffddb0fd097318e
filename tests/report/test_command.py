"""`mapjob report`."""

from pathlib import Path

from typer.testing import CliRunner

from mapjob import job
from mapjob.cli.app import app
from mapjob.errors import ConfigError
from tests.report.conftest import PLANTED


def test_it_writes_the_report_again(manifest, page, tmp_path):
    file = tmp_path / "again.html"
    result = CliRunner().invoke(app, ["report", job.path_of(manifest), "--output", str(file)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"report: {file}\n"
    assert file.read_text() == page
    result = CliRunner().invoke(app, ["report", job.path_of(manifest), "--examples", "1", "--output", str(file)])
    assert result.exit_code == 0, result.output
    assert PLANTED in file.read_text()
    assert PLANTED not in (Path(job.path_of(manifest)) / "report.html").read_text()


def test_a_file_that_cannot_be_written(manifest, tmp_path):
    output = tmp_path / "nowhere" / "report.html"
    result = CliRunner().invoke(app, ["report", job.path_of(manifest), "--output", str(output)])
    assert isinstance(result.exception, ConfigError)
    assert result.exception.where == f"--output {output}"


def test_a_folder_without_a_run(tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert "no finished run" in result.exception.what

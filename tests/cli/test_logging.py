"""What mapjob logs: lines on stderr from the command line, nothing from a library that nobody configured."""

import logging
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mapjob.cli.app import app
from mapjob.cli.options import is_verbose, log_to_stderr

LOG = logging.getLogger("mapjob.job.run")


def test_lines_for_people_are_on_stderr(capsys):
    log_to_stderr()
    log_to_stderr()
    LOG.debug("hidden")
    LOG.info("a line\nof text")
    LOG.warning("look here")
    assert capsys.readouterr() == ("", "a line\\nof text\nwarning: look here\n")


@pytest.mark.parametrize("arguments", [["-v", "report", "nowhere"], ["report", "nowhere", "-v"], ["report", "nowhere"]])
def test_verbose_before_and_behind_the_command(arguments):
    assert CliRunner().invoke(app, arguments).exit_code
    assert is_verbose() == ("-v" in arguments)


def test_a_library_is_silent():
    code = "import logging, mapjob; logging.getLogger('mapjob.job.run').warning('look here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

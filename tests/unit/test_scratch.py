"""Of what is temporary nothing stays: not after a kill, or no longer than until the next process makes a folder."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mapjob.errors import ConfigError
from mapjob.store import scratch
from mapjob.store.scratch import PREFIX, temporary_file, temporary_folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


CHILD = """
import time
from mapjob.store.scratch import temporary_file, temporary_folder
with temporary_file() as file, temporary_folder() as folder:
    file.write(b"a text of the corpus")
    file.flush()
    open(f"{folder}/part", "w").write("a text of the corpus")
    print("written", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_leaves_no_text(folder, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "written\n"
        with temporary_folder() as mine:
            assert len(list(folder.glob(f"{PREFIX}*"))) == 2, "one that is in use is left alone"
        assert not Path(mine).exists()
        child.send_signal(signal.SIGKILL)
    (left,) = folder.iterdir()
    assert [file.name for file in left.iterdir()] == ["part"], "a file without a name is gone at once"
    with temporary_folder():
        assert left.exists(), "it may be one that is being made"
    at = time.time() - 2 * scratch.YOUNG_S
    os.utime(left, (at, at))
    with temporary_folder() as mine:
        assert list(folder.iterdir()) == [Path(mine)]
    assert list(folder.iterdir()) == []


def test_no_temporary_folder_is_named(folder, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(ConfigError, match="no temporary folder can be written to") as caught:
        temporary_file()
    assert str(folder) in caught.value.where
    assert "set TMPDIR" in caught.value.do


@pytest.mark.parametrize(
    ("number", "below", "variable"),
    [
        (errno.EACCES, ".cache/hub", "HOME"),
        (errno.EROFS, "hf/modules/x", "HF_HOME"),
        (errno.ENOENT, "none/x", "HF_HOME"),
    ],
)
def test_what_cannot_be_written_names_its_variable(folder, monkeypatch, number, below, variable):
    for name in scratch.FOLDERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("HF_HOME", str(folder / below.partition("/")[0]) if variable == "HF_HOME" else "/elsewhere")
    explained = scratch.explain_unwritable(OSError(number, os.strerror(number), str(folder / below)))
    assert explained.where.startswith(f"{variable}=")
    assert explained.do == f"set {variable} to a folder that can be written to"


def test_other_errors_are_not_explained_so(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert scratch.explain_unwritable(FileNotFoundError(errno.ENOENT, "no such file", str(folder / "x"))) is None
    assert scratch.explain_unwritable(ConnectionError("reset")) is None

"""A local Ray that dies under a run, or whose run is ended or killed: exit code 4, no process left, the same files."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mapjob.config.load import load_config
from tests.crash.test_kill_driver import finish, num_files, published, run_file, start  # noqa: F401
from tests.without_ray import run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
]  # tests/unit/test_cluster.py has the decision, test_ends.py the signals
LONGEST_END_S = 150.0  # Ray's agents look for the head of a killed run for a minute
CALLER = """
import sys, threading, time, mapjob
from mapjob.errors import IncompleteError
finished = []
def call():
    try:
        finished.append(mapjob.run(sys.argv[1]))
    except IncompleteError as error:
        print("raised:", error.what, flush=True)
while not finished:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    time.sleep(float(sys.argv[2]))
print("the caller goes on", flush=True)
"""


BETWEEN_PASSES = """
import time, psutil
from mapjob.errors import IncompleteError
from mapjob.pipeline.cluster import connect
from mapjob.pipeline.watchdog import Watchdog
size = connect(None)
next(p for p in psutil.Process().children() if "gcs_server" in p.name()).kill()
time.sleep(1)
watchdog = Watchdog([], 300, size)
try:
    while True:
        watchdog.look()
        time.sleep(1)
except IncompleteError as error:
    print("raised:", error.what, flush=True)
"""


@pytest.fixture(scope="module")
def undisturbed(run_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:  # noqa: F811
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    run(load_config(run_file, [f"output.path={output}"]))
    return published(output)


@contextmanager
def none_left(process: subprocess.Popen) -> Iterator[list[psutil.Process]]:
    """The processes below this one, all of which are gone soon after the block."""
    alive: list[psutil.Process] = []
    yield alive
    ends = time.monotonic() + LONGEST_END_S
    while left := [child for child in alive if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < ends, left
        time.sleep(1)


def wait_for(output: Path, process: subprocess.Popen, number: int) -> list[psutil.Process]:
    """The processes below this one, once so many files are there."""
    while num_files(output) < number and process.poll() is None:
        time.sleep(0.01)
    return psutil.Process(process.pid).children(recursive=True)


def kill(name: str, processes: list[psutil.Process]) -> None:
    next(child for child in processes if name in "".join(child.cmdline()[:1])).kill()


@pytest.mark.parametrize(
    ("blow", "code", "says"),
    [
        ("raylet", 4, "the Ray node that this process is attached to is lost"),
        ("gcs_server", 4, "the head of the Ray cluster is lost"),
        (signal.SIGTERM, 4, "interrupted by SIGTERM"),
        (signal.SIGHUP, 4, "interrupted by SIGHUP"),
        (signal.SIGINT, 130, ""),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_the_program(run_file, undisturbed, tmp_path, blow, code, says):  # noqa: F811
    output = tmp_path / "out"
    with start(run_file, output) as process, none_left(process) as alive:
        alive += wait_for(output, process, 8)
        if isinstance(blow, str):
            kill(blow, alive)
        else:
            process.send_signal(blow)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == code, errors
        assert says in errors
        assert "Traceback" not in errors
    finish(run_file, output)
    assert published(output) == undisturbed


@pytest.mark.parametrize(
    ("blow", "says", "waits_s"),
    [
        ("raylet", "the Ray node that this process is attached to is lost", 0),
        ("gcs_server", "the head of the Ray cluster is lost", 75),  # Ray's own patience is a minute
    ],
)
def test_a_caller_in_a_thread_outlives_its_ray(run_file, undisturbed, tmp_path, blow, says, waits_s):  # noqa: F811
    """And calls again, with another Ray."""
    output, path = tmp_path / "out", tmp_path / "run.yaml"
    text = "\n".join(f"  path: {output}" if "unused" in line else line for line in run_file.read_text().splitlines())
    path.write_text(text)
    command = [sys.executable, "-c", CALLER, str(path), str(waits_s)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **options) as process, none_left(process) as alive:
        alive += wait_for(output, process, 8)
        kill(blow, alive)
        said, errors = process.communicate(timeout=600)
    ours = [line for line in said.splitlines() if line.startswith(("raised", "the caller"))]  # Ray prints there too
    ours = [line for line in ours if "no Ray came up" not in line]  # in half a minute: this machine is busy
    assert ours == [
        f"raised: {says}",
        "the caller goes on",
    ], errors
    assert published(output) == undisturbed


def test_a_head_that_is_lost_between_two_passes_is_missed_by_the_next():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    options = {"capture_output": True, "text": True, "env": environment, "timeout": 200}
    done = subprocess.run([sys.executable, "-c", BETWEEN_PASSES], check=False, **options)
    assert "raised: the head of the Ray cluster is lost" in done.stdout.splitlines(), done.stderr

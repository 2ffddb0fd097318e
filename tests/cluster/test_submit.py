"""`mapjob submit` to a real cluster of a head and two nodes, which asks for a token."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

import mapjob as package
from mapjob.config.load import load_config
from mapjob.job.submit import submission_id
from tests.cli.conftest import Mapjob
from tests.cli.test_commands import last_json
from tests.cluster.conftest import NUM_ROWS, ROWS_PER_UNIT
from tests.cluster.nodes import RunningCluster
from tests.crash.test_kill_driver import published
from tests.unit.test_notify import webhook
from tests.without_ray import run as run_in_process

pytestmark = pytest.mark.ray
RunFile = Callable[..., Path]
Told = tuple[str, list[dict[str, Any]]]
NUM_UNITS = NUM_ROWS // ROWS_PER_UNIT


def wait_for(condition: Callable[[], object], within_s: float = 300) -> None:
    ends = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends, "nothing came of it"
        time.sleep(0.02)


def column_files(output: Path) -> dict[str, int]:
    """Every column file, and when it was written."""
    return {str(file): file.stat().st_mtime_ns for file in output.glob("scores/*/*.parquet")}


def locally(run_file: Path, output: Path) -> dict[str, bytes]:
    """What the same run file publishes without a cluster."""
    run_in_process(load_config(run_file, [f"output.path={output}"]))
    return published(output)


def test_a_cluster_that_asks_for_a_token(mapjob: Mapjob, cluster: RunningCluster, run_file: RunFile) -> None:
    knowing = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    for name, given in {"none": {}, "mode alone": {"RAY_AUTH_MODE": "token"}, "wrong": knowing}.items():
        refused = mapjob("submit", run_file(), "--address", cluster.dashboard, env=cluster.stranger | given)
        assert refused.returncode == 2, name
        what, where, do = refused.stderr.strip().splitlines()
        assert "asks for a token" in what
        assert cluster.dashboard in where
        assert "RAY_AUTH_MODE=token" in do
        assert "RAY_AUTH_TOKEN" in do


@pytest.mark.slow  # test_left_refused_stopped_and_resumed sends the package too
def test_the_package_of_this_machine_runs_and_selects_what_it_does_locally(
    mapjob: Mapjob, cluster: RunningCluster, files: dict[str, Path], run_file: RunFile, tmp_path: Path
) -> None:
    # A copy that says so stands for a package that is installed here and nowhere on the cluster.
    installed = tmp_path / "installed"
    shutil.copytree(Path(package.__file__).parent, installed / "mapjob")
    with (installed / "mapjob" / "__init__.py").open("a") as source:
        source.write("\nprint('the copy is running')\n")
    path = run_file(input={"path": str(files["corpus"] / "part-000.parquet")})
    arguments = ["submit", path, "--address", cluster.dashboard, "--json"]
    ran = mapjob(*arguments, env=cluster.environment | {"PYTHONPATH": str(installed)}, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("the copy is running") >= 2  # here and there
    assert last_json(ran)["counts"]["ranked"] == NUM_ROWS // 3
    assert published(tmp_path / "out") == locally(path, tmp_path / "local")


@pytest.fixture
def told() -> Iterator[Told]:
    """(URL of a webhook, what it has received)."""
    with webhook() as receiving:
        yield receiving


def test_left_refused_stopped_and_resumed(
    mapjob: Mapjob, cluster: RunningCluster, client: JobSubmissionClient, run_file: RunFile, tmp_path: Path, told: Told
) -> None:
    path, output = run_file(), tmp_path / "out"
    name = submission_id(load_config(path))
    arguments = ["submit", path, "--address", cluster.dashboard, "--notify", told[0]]
    command = [sys.executable, "-m", "mapjob", *map(str, arguments)]
    with subprocess.Popen(command, env=cluster.environment, stderr=subprocess.PIPE, text=True) as follower:
        wait_for(lambda: name in {job.submission_id for job in client.list_jobs()})
        time.sleep(2)  # until it follows the log
        follower.send_signal(signal.SIGINT)
        _, stderr = follower.communicate(timeout=60)
    assert follower.returncode == 130, stderr
    assert f"ray job stop --address {cluster.dashboard} {name}" in stderr
    again = mapjob(*arguments, env=cluster.environment)
    assert again.returncode == 2
    assert "is already running on the cluster" in again.stderr
    assert f"submission {name}\n" in again.stderr

    wait_for(lambda: len(column_files(output)) >= NUM_UNITS + 8)  # all records first, then scores
    assert client.stop_job(name)
    wait_for(lambda: client.get_job_status(name) == JobStatus.STOPPED)
    before = column_files(output)
    assert 0 < len(before) < 3 * NUM_UNITS
    resumed = mapjob(*arguments, env=cluster.environment)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"submitted as {name}-2" in resumed.stderr
    assert "units are already scored" in resumed.stdout
    after = column_files(output)
    assert {file: after[file] for file in before} == before
    assert published(output) == locally(path, tmp_path / "local")
    assert [(body["event"], body["exit_code"]) for body in told[1]] == [("failed", 4), ("finished", 0)]
    assert told[0] not in str([(job.entrypoint, job.runtime_env) for job in client.list_jobs()])


@pytest.mark.parametrize(("exit_code", "says"), [(2, "there is no model at this path"), (3, "  where: ")])
def test_exit_codes_of_the_job_arrive(
    mapjob: Mapjob, cluster: RunningCluster, run_file: RunFile, tmp_path: Path, told: Told, exit_code: int, says: str
) -> None:
    cut_off = tmp_path / "corpus" / "part-000.parquet"
    cut_off.parent.mkdir()
    cut_off.write_bytes(b"PAR1 and no more")
    models = {"policy": {"path": "/nowhere"}, "reward": {"path": "/nowhere"}}
    wrong = {2: {"models": models}, 3: {"input": {"path": str(cut_off.parent)}}}[exit_code]
    command = ["submit", run_file(**wrong), "--address", cluster.dashboard, "--notify", told[0]]
    ended = mapjob(*command, env=cluster.environment)
    assert ended.returncode == exit_code, ended.stderr
    assert says in ended.stdout
    assert [(body["event"], body["exit_code"]) for body in told[1]] == [
        ({2: "failed", 3: "refused"}[exit_code], exit_code)
    ]


def test_a_job_stopped_by_others_is_resumable(
    cluster: RunningCluster, client: JobSubmissionClient, run_file: RunFile
) -> None:
    path = run_file(scoring={"max_length": 500})
    name = submission_id(load_config(path))
    command = [sys.executable, "-m", "mapjob", "submit", str(path), "--address", cluster.dashboard]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "env": cluster.environment}
    with subprocess.Popen(command, **options) as follower:
        wait_for(lambda: name in {job.submission_id for job in client.list_jobs()})
        wait_for(lambda: client.get_job_status(name) == JobStatus.RUNNING)
        client.stop_job(name)
        _, stderr = follower.communicate(timeout=60)
    assert follower.returncode == 4, stderr
    assert "the job was stopped" in stderr


@pytest.mark.slow
def test_rays_own_command_submits_it_as_well(cluster: RunningCluster, run_file: RunFile, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    shutil.copy(run_file(), shipped)
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "job", "submit", "--address", cluster.dashboard, "--working-dir", str(shipped), "--"]
    command += ["mapjob", "run", "run.yaml", "--limit", "20", "--set", "execution.rows_per_unit=10"]
    ran = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "ranked                    20" in ran.stdout
    assert len(list(tmp_path.glob("out/runs/*/manifest.json"))) == 1

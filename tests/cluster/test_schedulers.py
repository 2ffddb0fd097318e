"""The examples for schedulers, run for real with a stub `mapjob` that ends with each code.

Airflow's and Dagster's run in an interpreter that has them: SCHEDULERS_PYTHON, or this one.
"""

import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

SCHEDULERS = Path(__file__).resolve().parents[2] / "cluster" / "schedulers"
ARGO = yaml.safe_load((SCHEDULERS / "argo.yaml").read_text())
TEMPLATES = {template["name"]: template for template in ARGO["spec"]["workflowSpec"]["templates"]}
PYTHON = os.environ.get("SCHEDULERS_PYTHON", sys.executable)
# What a night does: codes of `mapjob run`, one per call -> (code of the night, calls, does the training start?).
NIGHTS = {
    "committed": ([0], 0, 1, True),
    "resumed": ([4, 4, 0], 0, 3, True),
    "killed": ([137, 0], 0, 2, True),
    "never": ([4, 4, 4, 4], 4, 3, False),
    "not promoted": ([5, 0], 5, 1, False),
    "rejected": ([3, 0], 3, 1, False),
    "usage": ([2, 0], 2, 1, False),
    "fault": ([1, 0], 1, 1, False),
    "interrupted": ([130, 0], 130, 1, False),
}
STUB = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$CALLS/all"
[[ -n ${SLOW:-} && $1 = run ]] && { trap 'exit 4' TERM; touch "$CALLS/started"; sleep 30 & wait; }
[[ $1 = run ]] || exit 0
number=$(grep -c '^mapjob run' "$CALLS/all")
exit "$(sed -n "${number}p" "$CALLS/codes")"
"""
Stub = Callable[..., dict[str, str]]


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    """Put commands on the PATH, `mapjob` among them, which ends with these codes; returns the environment."""

    def make(codes: list[int], **commands: str) -> dict[str, str]:
        for name, text in {"mapjob": STUB, **commands}.items():
            file = tmp_path / "bin" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
        (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
        (tmp_path / "all").write_text("")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        return {
            **os.environ,
            "PATH": path,
            "CALLS": str(tmp_path),
            "HOME": str(tmp_path),
            "WAIT_S": "0",
            "ATTEMPTS": "3",
        }

    return make


def calls(tmp_path: Path, start: str = "mapjob") -> list[str]:
    return [line for line in (tmp_path / "all").read_text().splitlines() if line.startswith(start)]


@pytest.mark.parametrize("file", sorted(SCHEDULERS.iterdir()), ids=lambda file: file.name)
def test_every_file_is_what_its_reader_can_parse(file: Path) -> None:
    text = file.read_text()
    if file.suffix in (".sh", ".sbatch"):
        subprocess.run(["bash", "-n", file], check=True)
    elif file.suffix == ".py":
        compile(text, file.name, "exec")
    elif file.name == "crontab":
        jobs = [line for line in text.splitlines() if line and not re.match(r"#|\w+=", line)]
        assert len(jobs) == 2
        for job in jobs:
            assert re.match(r"(\S+ +){5}\S", job)
            assert not re.search(r"(?<!\\)%", job), "cron takes % for a newline"
    if file.name != "slurm.sh":
        assert (
            "slurm.sh" in text
            or all(re.search(rf"\b{code}\b", text) for code in (0, 3, 4, 5))
            or file.name == "crontab"
        )


@pytest.mark.parametrize("night", NIGHTS)
def test_cron(night: str, stub: Stub, tmp_path: Path) -> None:
    codes, code, number, trains = NIGHTS[night]
    command = [SCHEDULERS / "nightly.sh", "run.yaml", "mapjob", "train", "out"]
    done = subprocess.run(command, env=stub(codes), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert len(calls(tmp_path, "mapjob run run.yaml")) == number
    assert bool(calls(tmp_path, "mapjob train out")) == trains
    assert bool(done.stderr) == (code != 0), "cron mails what a person has to know"
    assert ("not promoted" in done.stderr) == (code == 5)


def test_cron_rotates_logs_and_starts_no_second_night_beside_the_first(stub: Stub, tmp_path: Path) -> None:
    logs = tmp_path / "mapjob-logs"
    logs.mkdir()
    old, kept = logs / "night-2020-01-01.log", logs / "night-2020-01-02.log"
    for file in (old, kept):
        file.write_text("")
    os.utime(old, (0, 0))
    environment = {**stub([0]), "SLOW": "1"}
    with subprocess.Popen([SCHEDULERS / "nightly.sh", "run.yaml"], env=environment, start_new_session=True) as first:
        wait_for(tmp_path / "started")
        second = subprocess.run(
            [SCHEDULERS / "nightly.sh", "run.yaml"], env=stub([0]), capture_output=True, check=False
        )
        os.killpg(first.pid, signal.SIGKILL)
    assert second.returncode == 0
    assert b"still going on" in second.stderr
    assert not old.exists()
    assert kept.exists()
    assert len(list(logs.glob("night-*.log"))) == 2


def wait_for(file: Path) -> None:
    end = time.monotonic() + 20
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert file.exists()


SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >>"$CALLS/all"
[[ $1 = show ]] && printf 'node1\\nnode2\\n'
exit 0
"""
OTHERS = '#!/usr/bin/env bash\necho "$(basename "$0") $*" >>"$CALLS/all"\n'
SLURM = {"scontrol": SCONTROL, "srun": OTHERS + "shift; exec sleep 30\n", "ray": OTHERS}


def slurm(stub: Stub, tmp_path: Path, codes: list[int], restarts: int) -> dict[str, str]:
    own = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_SUBMIT_DIR": str(tmp_path)}
    shutil.copy(SCHEDULERS / "slurm.sh", tmp_path)
    waits = dict.fromkeys(("HEAD_WAIT_S", "WORKERS_WAIT_S", "REQUEUE_S"), "0")
    return {**stub(codes, **SLURM), **own, **waits, "SLURM_CPUS_PER_TASK": "4", "SLURM_RESTART_COUNT": str(restarts)}


@pytest.mark.parametrize("script", ["one_node.sbatch", "several_nodes.sbatch"])
@pytest.mark.parametrize("night", NIGHTS)
def test_slurm(script: str, night: str, stub: Stub, tmp_path: Path) -> None:
    """A requeued job starts again under its id, as here; only one that ends with 0 lets an afterok job start."""
    codes, code, number, _ = NIGHTS[night]
    starts = 0
    while True:
        environment = slurm(stub, tmp_path, codes[starts:], starts)
        done = subprocess.run(
            ["bash", SCHEDULERS / script, "run.yaml"], env=environment, capture_output=True, text=True, check=False
        )
        starts += 1
        if f"scontrol requeue {environment['SLURM_JOB_ID']}" not in calls(tmp_path, "scontrol"):
            break
    assert (done.returncode, starts) == (code, number), done.stderr
    (called,) = calls(tmp_path, "mapjob run run.yaml")
    assert ("--set execution.address=node1:20017" in called) == (script == "several_nodes.sbatch")
    assert not list(tmp_path.glob(".ray-token*")), "the token leaves with the job"
    if script == "several_nodes.sbatch":
        workers, head = sorted(calls(tmp_path, "srun"), key=len)
        assert "--nodelist=node1" in head
        assert "ray start --head --port=20017" in head
        assert "ray start --address=node1:20017" in workers


@pytest.mark.parametrize("script", ["one_node.sbatch", "several_nodes.sbatch"])
def test_slurm_near_its_time_limit(script: str, stub: Stub, tmp_path: Path) -> None:
    environment = {**slurm(stub, tmp_path, [0], 0), "SLOW": "1", "WAIT_S": "1000"}
    with subprocess.Popen(["bash", SCHEDULERS / script, "run.yaml"], env=environment) as job:
        wait_for(tmp_path / "started")
        job.terminate()
        assert job.wait(20) == 4
    assert calls(tmp_path, "scontrol requeue 17")


def test_what_the_argo_workflow_promises(stub: Stub) -> None:
    spec = ARGO["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    night = {task["name"]: task for task in TEMPLATES["night"]["dag"]["tasks"]}
    assert night["train"]["depends"] == "run.Succeeded"
    retry = TEMPLATES["run"]["retryStrategy"]
    assert int(retry["limit"]) > 0
    again = {
        code for code in range(256) if eval(retry["expression"], {"lastRetry": SimpleNamespace(exitCode=str(code))})
    }
    assert again == {4, 137, 143}
    assert TEMPLATES["run"]["container"]["command"] == ["mapjob", "run", "/etc/mapjob/run.yaml"]
    used = {night[name]["template"] for name in night} | {spec["workflowSpec"][key] for key in ("entrypoint", "onExit")}
    used |= {step["template"] for steps in TEMPLATES["end"]["steps"] for step in steps}
    assert used == TEMPLATES.keys()


@pytest.mark.parametrize("quoted", [False, True])
def test_argo_tells_a_person(quoted: bool) -> None:
    told: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    script = TEMPLATES["tell"]["script"]
    failures = json.dumps([{"displayName": "run", "message": "Error (exit code 5)"}])
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request).start()
        values = {"STATUS": "Failed", "FAILURES": json.dumps(failures) if quoted else failures}
        values["WEBHOOK"] = f"http://127.0.0.1:{server.server_port}/"
        assert values.keys() == {variable["name"] for variable in script["env"]}
        subprocess.run([*script["command"], "-c", script["source"]], env={**os.environ, **values}, check=True)
    assert told == [{"text": "mapjob: Failed. run: Error (exit code 5)"}]


def needs(package: str) -> None:
    """Skip where the interpreter lacks it."""
    if subprocess.run([PYTHON, "-c", f"import {package}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{PYTHON} has no {package}: SCHEDULERS_PYTHON names one with apache-airflow, dagster and hera")


def ask(program: str, environment: dict[str, str] | None = None) -> Any:
    """What a program prints last, as JSON."""
    command = [PYTHON, "-c", f"import sys; sys.path.insert(0, {str(SCHEDULERS)!r})\n{program}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


HERA = """
import json, yaml
from hera.workflows import models
def unknown(model, given, path=""):
    dumped = model.model_dump(by_alias=True, exclude_none=True, mode="json")
    def walk(one, other, path):
        if isinstance(one, dict):
            for key, value in one.items():
                if not isinstance(other, dict) or key not in other:
                    yield f"{path}.{key}"
                else:
                    yield from walk(value, other[key], f"{path}.{key}")
        elif isinstance(one, list):
            for number, (value, kept) in enumerate(zip(one, other)):
                yield from walk(value, kept, f"{path}[{number}]")
    return list(walk(given, dumped, path))
tree = yaml.safe_load(open(PATH))
print(json.dumps(unknown(models.CronWorkflow.model_validate(tree), tree)))
"""


@pytest.mark.slow
def test_argo_takes_every_key(tmp_path: Path) -> None:
    """By the models that Hera makes of Argo's own schema; what they do not know is dropped, and so noticed."""
    needs("hera")
    assert ask(HERA.replace("PATH", repr(str(SCHEDULERS / "argo.yaml")))) == []
    wrong = (SCHEDULERS / "argo.yaml").read_text().replace("retryStrategy:", "retryStrategies:")
    (tmp_path / "wrong.yaml").write_text(wrong)
    assert ask(HERA.replace("PATH", repr(str(tmp_path / "wrong.yaml")))) == [
        ".spec.workflowSpec.templates[1].retryStrategies"
    ]


AIRFLOW = """
import json, os
import airflow_dag
from airflow.exceptions import AirflowFailException
night = airflow_dag.mapjob_nightly()
run, train = night.get_task("run"), night.get_task("train")
assert train.upstream_task_ids == {"run"} and train.trigger_rule == "all_success"
assert run.retries > 2 and run.retry_exponential_backoff and night.max_active_runs == 1
outcomes = []
for code in CODES:
    open(os.environ["CALLS"] + "/all", "w").close()
    open(os.environ["CALLS"] + "/codes", "w").write(str(code))
    outcome = "done"
    try:
        run.python_callable()
    except AirflowFailException:
        outcome = "failed"
    except Exception:
        outcome = "retried"
    outcomes.append(outcome)
print(json.dumps(outcomes))
"""


@pytest.mark.slow
def test_airflow(stub: Stub, tmp_path: Path) -> None:
    needs("airflow")
    expected = {
        0: "done",
        1: "failed",
        2: "failed",
        3: "failed",
        4: "retried",
        5: "failed",
        130: "failed",
        137: "retried",
    }
    program = AIRFLOW.replace("CODES", repr(list(expected)))
    assert ask(program, {**stub([]), "AIRFLOW_HOME": str(tmp_path)}) == list(expected.values())


DAGSTER = """
import json, os
import dagster_job
dagster_job.RETRIES = 2
outcomes = []
for codes in NIGHTS:
    open(os.environ["CALLS"] + "/all", "w").close()
    open(os.environ["CALLS"] + "/codes", "w").write("".join(f"{code}\\n" for code in codes))
    result = dagster_job.mapjob_nightly.execute_in_process(raise_on_error=False)
    trained = ("STEP_SUCCESS", "train") in [(event.event_type_value, event.step_key) for event in result.all_events]
    calls = open(os.environ["CALLS"] + "/all").read().count("mapjob run")
    outcomes.append([result.success, calls, trained])
print(json.dumps(outcomes))
"""


@pytest.mark.slow
def test_dagster(stub: Stub, tmp_path: Path) -> None:
    needs("dagster")
    program = DAGSTER.replace("NIGHTS", repr([codes for codes, *_ in NIGHTS.values()]))
    outcomes = ask(program, {**stub([]), "DAGSTER_HOME": str(tmp_path), "MAPJOB_WAIT_S": "0"})
    assert outcomes == [[code == 0, number, trains] for _, code, number, trains in NIGHTS.values()]

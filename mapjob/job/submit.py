"""A run as a job of a Ray cluster (Ray Jobs API): what is shipped, what it is called, how it is followed."""

import asyncio
import os
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

import mapjob
from mapjob.config.load import fingerprint, parse_config
from mapjob.config.run import Config
from mapjob.corpus.listing import url_of
from mapjob.errors import ConfigError, IncompleteError
from mapjob.escaping import first_line, redact
from mapjob.store.scratch import temporary_folder

# What is shipped is a Python module with the run file in it, since Ray unpacks a module once in a folder. A working
# folder it removes and unpacks again for each node that shares the folder, as nodes on one machine do: under the
# driver, which then finds no `mapjob.pipeline.actors`. Sources that the driver copies for itself before it imports any
# would not mend it, since the workers of the first node import from that folder too.
RUN_FILE, WEBHOOK = "mapjob/run.yaml", "mapjob/webhook"
HERE = "${PYTHONPATH%%:*}"  # of the shell: Ray puts the folder of the module first
POLL_S = 1.0
NOT_FOUND = (126, 127)  # of the shell


def submission_id(config: Config, limit: int | None = None) -> str:
    """Names the run file: the same one, with the same overrides and limit, has the same id wherever it is submitted."""
    covers = {"config": portable(config).model_dump(mode="json"), "limit": limit}
    return f"mapjob-{fingerprint(covers)}"


def portable(config: Config) -> Config:
    """The run file as the cluster gets it: without an address, its relative paths made absolute from this folder.

    A model's path that is no folder here is a name on the hub, or a path of the cluster.
    """
    tree = config.model_dump()
    path = tree["input"]["path"]
    tree["input"]["path"] = _of_input(path) if isinstance(path, str) else [_of_input(part) for part in path]
    tree["output"]["path"] = _absolute(tree["output"]["path"])
    tree["execution"]["address"] = None
    _make_absolute(tree["models"])
    return parse_config(tree)


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _of_input(path: str) -> str:
    url = url_of(path)
    return url if url != path else _absolute(path)


def _make_absolute(models: dict[str, Any]) -> None:
    for key, value in models.items():
        if isinstance(value, dict):
            _make_absolute(value)
        elif key in ("path", "adapter") and value is not None and os.path.isdir(value):
            models[key] = os.path.abspath(value)


def pack(config: Config, folder: Path, webhook: str | None = None) -> None:
    """Write what is shipped: the run file, resolved, the sources of the package that is running here, and the webhook,
    whose URL is a secret that the dashboard would show among the arguments.

    Raises ConfigError for a run file that holds a secret.
    """
    text = yaml.safe_dump(portable(config).model_dump(mode="json"), sort_keys=False)
    secrets = [redact(line.strip()) for line in text.splitlines() if redact(line) != line]
    if secrets:
        what = "a URL of the run file holds a password, key or token"
        do = "put credentials into the environment of the cluster's machines, or give them a role"
        raise ConfigError(f"{what}, which would reach the cluster's dashboard and logs", secrets[0], do)
    shutil.copytree(
        Path(mapjob.__file__).parent, folder / "mapjob", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    (folder / RUN_FILE).write_text(text, encoding="utf-8")
    if webhook is not None:
        (folder / WEBHOOK).write_text(webhook, encoding="utf-8")


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster whose dashboard is at `address` (host:port or http(s) URL).

    Raises ConfigError when none answers there, or it refuses the token that Ray found for it.
    """
    url = address if "://" in address else f"http://{address}"
    if redact(url) != url:
        raise ConfigError("this URL holds a password", f"--address {redact(url)}", "give the cluster's token to Ray")
    where = f"--address {address}"
    if not url.startswith(("http://", "https://")):
        raise ConfigError("jobs are submitted to a cluster's dashboard", where, "give http://<head>:8265")
    os.environ["RAY_API_SERVER_ADDRESS"] = url  # else that of the environment, or RAY_ADDRESS, would go before ours
    try:
        client = JobSubmissionClient(url)
        client.list_jobs()  # the version, which the client asks for, is told without a token
    except AuthenticationError as error:
        ways = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
        do = f"set RAY_AUTH_MODE=token, and give the cluster's token as Ray takes it: {ways}"
        raise ConfigError("the Ray cluster asks for a token, and got none or a wrong one", where, do) from error
    except (OSError, RuntimeError, ValueError) as error:
        do = "give the dashboard's address, port 8265 of the head; on clusters with a closed port, forward it first"
        raise ConfigError(f"no Ray dashboard answers: {first_line(error)}", where, do) from error
    return client


def submit(
    client: JobSubmissionClient,
    config: Config,
    limit: int | None,
    options: tuple[str, ...],
    num_cpus: float,
    webhook: str | None = None,
) -> str:
    """Ship the run file and this package, start the job; returns the submission's id.

    After an earlier submission of the same run file that has ended, the id gets a suffix: -2, -3. options: of
    `mapjob run`. num_cpus: kept for the driver; 0: none, and it runs on the head. webhook: for --notify. Raises
    ConfigError while the same run file is running there.
    """
    name = submission_id(config, limit)
    states = {job.submission_id: job.status for job in client.list_jobs() if job.submission_id is not None}
    number = 1
    while (numbered := name if number == 1 else f"{name}-{number}") in states:
        if not states[numbered].is_terminal():
            raise _already_running(client, numbered)
        number += 1
    arguments = [*options, *([] if limit is None else ["--limit", str(limit)])]
    notify = "" if webhook is None else f'--notify "@{HERE}/{WEBHOOK}" '
    with temporary_folder() as folder:
        pack(config, Path(folder), webhook)
        try:
            return client.submit_job(
                # A folder `mapjob` where the cluster was started is none of ours.
                entrypoint=f'PYTHONSAFEPATH=1 python -m mapjob run "{HERE}/{RUN_FILE}" {notify}{shlex.join(arguments)}',
                submission_id=numbered,
                runtime_env={"py_modules": [f"{folder}/mapjob"]},
                entrypoint_num_cpus=num_cpus,
            )
        except RuntimeError as error:
            if "already exists" in str(error):  # somebody else's submission of the same moment
                raise _already_running(client, numbered) from error
            what = f"the cluster refused the job: {first_line(error)}"
            raise ConfigError(what, client.get_address(), "fix what it names, and submit again") from error


def follow(client: JobSubmissionClient, name: str, show: Callable[[str], Any]) -> int:
    """Show the job's log as it grows; returns the exit code of its driver.

    Raises IncompleteError when the job was stopped, or ended or went out of sight without an exit code.
    """

    async def tail() -> None:
        async for text in client.tail_job_logs(name):
            show(text)

    again = "submit the same run file again: it resumes from what is committed"
    try:
        asyncio.run(tail())
        while not (info := client.get_job_info(name)).status.is_terminal():
            time.sleep(POLL_S)
    except (OSError, RuntimeError) as error:
        do = f"look with `{command('status', client, name)}`; if it is gone, {again}"
        raise IncompleteError(f"the cluster no longer answers: {first_line(error)}", name, do) from error
    if info.status == JobStatus.STOPPED:
        raise IncompleteError("the job was stopped", name, again)
    if info.driver_exit_code is None or info.driver_exit_code < 0:
        why = first_line(info.message or f"signal {-info.driver_exit_code}")
        raise IncompleteError(f"the job ended without an exit code: {why}", name, again)
    if info.driver_exit_code in NOT_FOUND:
        do = "put the bin folder of mapjob's environment first on the PATH before `ray start`, on every machine"
        raise ConfigError("the cluster's machine has no `python` on its PATH", name, do)
    return info.driver_exit_code


def command(verb: str, client: JobSubmissionClient, name: str) -> str:
    """The command of Ray's that stops, follows or describes a submission."""
    return f"ray job {verb} {'--follow ' if verb == 'logs' else ''}--address {client.get_address()} {name}"


def _already_running(client: JobSubmissionClient, name: str) -> ConfigError:
    return ConfigError(
        "this run file is already running on the cluster",
        f"submission {name}",
        f"follow it with `{command('logs', client, name)}`, or end it with `{command('stop', client, name)}`",
    )

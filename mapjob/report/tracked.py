"""Logs a finished run's numbers and report to an experiment tracker: Weights & Biases, or trackio, which has its API.
An output is one run there, and each of our runs a further step of it, so that nights become lines.

The tracker is called in a process of its own (`python -m mapjob.report.tracked wandb RUN`), so that one that fails,
hangs or exits harms nothing. Server and key come from the tracker's own environment variables.
"""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Literal

from mapjob.config.load import fingerprint
from mapjob.escaping import redact
from mapjob.store.run_folder import FinishedRun, Manifest, open_run

log = logging.getLogger(__name__)

Tracker = Literal["wandb", "trackio"]


def log_run(run_path: str, tracker: Tracker, timeout_s: float = 300.0) -> None:
    """Log a finished run. If that fails, a warning is all that comes of it."""
    command = [sys.executable, "-m", "mapjob.report.tracked", tracker, run_path]
    try:
        # Without a terminal, so that no tracker asks for a key; what it prints is not part of our results.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
        why = " ".join(done.stderr.strip().splitlines()[-1:])
        failed = f"exit code {done.returncode}: {why}" if done.returncode else None
    except subprocess.TimeoutExpired:
        failed = f"no end after {timeout_s:g} s"
    if failed:
        log.warning(redact(f"the run is committed, but logging to {tracker} failed ({failed})"))
    else:
        log.info(f"logged to {tracker}")


def numbers(manifest: Manifest) -> dict[str, float]:
    """Every number of a manifest, `counts/ranked` and so on: counts, measures, statistics, seconds and tokens."""
    return dict(_flat("", {name: manifest[name] for name in ("counts", "measures", "flags", "statistics", "spent")}))


def line_of(output_url: str) -> str:
    """What an output is called at a tracker: the end of its path, and a hash of the whole."""
    tail = re.sub(r"[^\w-]+", "-", output_url.rstrip("/").rpartition("/")[2])
    return f"{tail}-{fingerprint({'output': output_url})}"


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{name}/{key}" if name else key, part)
    elif isinstance(value, int | float):
        yield name, value


def _send(tracker: str, run: FinishedRun) -> None:
    client = import_module(tracker)
    project = os.environ.get(f"{tracker.upper()}_PROJECT", "mapjob")
    config = {"run_id": run.folder.run_id, **run.manifest["config"]}
    line = line_of(config["output"]["path"])
    # A step follows the last one that the tracker has; trackio knows a run by its name.
    more = {"id": line, "allow_val_change": True} if tracker == "wandb" else {}
    logged = client.init(project=project, name=line, resume="allow", config=config, **more)
    report = client.Html(run.folder.read("report.html").decode(), inject=False)
    logged.log({**numbers(run.manifest), "report": report})
    logged.finish()


if __name__ == "__main__":
    _send(sys.argv[1], open_run(sys.argv[2]))

"""A finished run's numbers and report in an experiment tracker: Weights & Biases, or trackio, which speaks as it does.

A process of its own talks to it (`python -m mapjob.report.tracked wandb RUN`), so that a tracker that fails, hangs or
ends its process takes nothing with it. Where to, and with which key, is the tracker's own affair: its environment.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Literal

from mapjob.errors import check_extra
from mapjob.escaping import redact
from mapjob.store.run_folder import FinishedRun, Manifest, open_run

log = logging.getLogger(__name__)

Tracker = Literal["wandb", "trackio"]
LONGEST_S = 300.0


def check_tracker(tracker: Tracker) -> None:
    """Raises ConfigError where it is not installed: before the run, not after it."""
    check_extra(tracker, tracker, "logging", f"--log-to {tracker}")


def log_run(run_path: str, tracker: Tracker, longest_s: float = LONGEST_S) -> None:
    """Log a finished run. What goes wrong is said as a warning, and changes nothing."""
    command = [sys.executable, "-m", "mapjob.report.tracked", tracker, run_path]
    try:
        # Without a terminal, so that no tracker asks for a key; what it prints is not part of our results.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=longest_s)
        why = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        failed = f"exit code {done.returncode}: {' '.join(why)}" if done.returncode else None
    except subprocess.TimeoutExpired:
        failed = f"no end after {longest_s:g} s"
    if failed:
        log.warning(redact(f"the run is committed, but {tracker} did not take it ({failed})"))
    else:
        log.info(f"logged to {tracker}")


def numbers(manifest: Manifest) -> dict[str, float]:
    """Every number of a manifest, `counts/ranked` and so on: counts, statistics, seconds and tokens."""
    parts = {name: manifest[name] for name in ("counts", "flags", "statistics", "spent")}
    return dict(_flat("", parts))


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{name}/{key}" if name else key, part)
    elif isinstance(value, int | float):
        yield name, value


def _send(tracker: str, run: FinishedRun) -> None:
    client = import_module(tracker)
    project = os.environ.get(f"{tracker.upper()}_PROJECT", "mapjob")
    logged = client.init(project=project, name=run.folder.run_id, config=run.manifest["config"])
    report = client.Html(run.folder.read("report.html").decode(), inject=False)
    logged.log({**numbers(run.manifest), "report": report})
    logged.finish()


if __name__ == "__main__":
    _send(sys.argv[1], open_run(sys.argv[2]))

"""Joining a Ray cluster, or starting a local one."""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator

import ray
import ray.data  # sets up its loggers as it is imported, which `connect` quiets
from ray.exceptions import AuthenticationError, RayError, RayTaskError

from mapjob.errors import ConfigError, IncompleteError, MapjobError
from mapjob.escaping import first_line


def connect(address: str | None) -> tuple[float, float]:
    """Start a local Ray, or join the cluster at `address`; returns its (CPUs, GPUs).

    The workers' output is shown if mapjob's logger is at DEBUG, as `mapjob -v` has it.
    Raises ConfigError when no cluster answers there, or it refuses the token that Ray found for it.
    """
    # Errors reach the user once, as exceptions; Ray and Ray Data would print each of them again, and more.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    log_to_driver = logging.getLogger("mapjob").isEnabledFor(logging.DEBUG)
    if not ray.is_initialized():
        # "local" if no cluster is named: by itself Ray would join any cluster started on this machine.
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        local = {"include_dashboard": False} if address == "local" else {}
        try:
            _knock(address)
            with contextlib.nullcontext() if log_to_driver else _quiet_terminal():
                ray.init(address, logging_level=logging.ERROR, log_to_driver=log_to_driver, **local)
        except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
            if isinstance(error, AuthenticationError) or "InvalidAuthToken" in str(error.__cause__):
                raise ConfigError(
                    "the Ray cluster asks for a token, and got none or a wrong one",
                    f"execution.address: {address}",
                    "set RAY_AUTH_MODE=token, and give the cluster's token as Ray takes it: RAY_AUTH_TOKEN, "
                    "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token",
                ) from error
            raise ConfigError(
                f"no Ray cluster answers: {first_line(error)}",
                f"execution.address: {address}",
                "start one (`RAY_AUTH_MODE=token ray start --head`), or leave execution.address empty for a local Ray",
            ) from error
    resources = ray.cluster_resources()
    return resources.get("CPU", 1.0), resources.get("GPU", 0.0)


def explain(error: RayError) -> MapjobError | None:
    """What a task or the cluster failed for; None if mapjob is at fault, and the whole trace is what helps."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, MapjobError):
        return cause
    if isinstance(error, RayTaskError) and not isinstance(cause, RayError):
        return None
    do = "run the same command again: it resumes from what is committed"
    return IncompleteError(f"the cluster failed: {first_line(error)}", "the Ray cluster", do)


def _knock(address: str) -> None:
    """Raises OSError when nothing listens at host:port. Ray itself would go on trying there for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextlib.contextmanager
def _quiet_terminal() -> Iterator[None]:
    """Ray's C++ side announces its log level straight on file descriptor 2, whatever Python says."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)

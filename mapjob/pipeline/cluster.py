"""Joining a Ray cluster, or starting a local one."""

import contextlib
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

import ray
import ray.data  # sets up its loggers as it is imported, which `connect` quiets
from ray._private import auto_init_hook
from ray._private.utils import read_ray_address
from ray.exceptions import AuthenticationError, RayError, RayTaskError

from mapjob.errors import ConfigError, IncompleteError, MapjobError
from mapjob.escaping import first_line
from mapjob.interrupts import hold_signals
from mapjob.store.scratch import explain_unwritable, process_folder

log = logging.getLogger(__name__)

KNOCK_S = 10.0
LOOK_S = 2.0  # between two looks at the cluster while nothing comes of it
HEAD_LOST_AFTER_S = 15.0
PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
RESUME = "run the same command again: it resumes from what is committed"


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
        address = find_address(address)
        options: dict[str, Any] = {}
        if address == "local":  # objects that memory has no room for, texts among them, are gone with this process
            options = {"include_dashboard": False, "object_spilling_directory": process_folder()}
        try:
            _knock(address)
            with hold_signals(), _outlive_head(), contextlib.nullcontext() if log_to_driver else _quiet_terminal():
                _init_ray(address, logging_level=logging.ERROR, log_to_driver=log_to_driver, **options)
        except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
            if isinstance(error, AuthenticationError) or "InvalidAuthToken" in str(error.__cause__):
                raise ConfigError(
                    "the Ray cluster asks for a token, and got none or a wrong one",
                    f"execution.address: {address}",
                    "set RAY_AUTH_MODE=token, and give the cluster's token as Ray takes it: RAY_AUTH_TOKEN, "
                    "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token",
                ) from error
            if isinstance(error, OSError) and (unwritable := explain_unwritable(error)):
                raise unwritable from error
            if "Version mismatch" in str(error):
                theirs, ours = re.findall(r"(Ray: \S+)\s+(Python: \S+)", str(error))
                raise ConfigError(
                    f"the cluster has {', '.join(theirs)}, and this process has {', '.join(ours)}",
                    f"{sys.executable}, execution.address: {address}",
                    "use the same versions of Ray and of Python here and on every machine of the cluster",
                ) from error
            raise ConfigError(
                f"no Ray cluster answers: {first_line(error)}",
                f"execution.address: {address}",
                "start one (`RAY_AUTH_MODE=token ray start --head`), or leave execution.address empty for a local Ray",
            ) from error
        except Exception as error:
            if type(error) is not Exception:
                raise
            # A plain one: a machine that is too busy to start a Ray in half a minute.
            raise IncompleteError(f"no Ray came up: {first_line(error)}", f"Ray at {address}", RESUME) from error
        if address != "local":
            log.info(f"joined the Ray cluster at {address}")
    while not heartbeat().check():  # a caller's Ray, or that of an earlier run
        time.sleep(LOOK_S)
    resources = ray.cluster_resources()
    return resources.get("CPU", 1.0), resources.get("GPU", 0.0)


def _init_ray(address: str, **options: Any) -> None:
    """Linux ends the processes that Ray starts with the thread that started them, and then Ray ends this process; so a
    thread that stays starts them, if the caller's may end before.
    """
    if threading.current_thread() is threading.main_thread():
        ray.init(address, **options)
        return
    outcome: Future[None] = Future()

    def start() -> None:
        try:
            ray.init(address, **options)
        except BaseException as error:  # noqa: BLE001, which the caller's thread raises
            outcome.set_exception(error)
            return
        outcome.set_result(None)
        threading.Event().wait()

    threading.Thread(target=start, name="mapjob-ray", daemon=True).start()
    outcome.result()


@contextlib.contextmanager
def _outlive_head() -> Iterator[None]:
    """A start of Ray that leaves this process alone once its head is lost, which Heartbeat raises.

    Else Ray ends it after a minute if any call still waits for the head, as one of a thread of Ray Data's does, also
    after `ray.shutdown`. What this process starts gets os.environ, without this. A time that is set there stays.
    """
    if PATIENCE in os.environ:
        yield
        return
    os.putenv(PATIENCE, str(10**9))  # seconds
    try:
        yield
    finally:
        os.unsetenv(PATIENCE)


def find_address(address: str | None) -> str:
    """host:port, a URL, or `local` if neither the run file nor RAY_ADDRESS names a cluster.

    `auto` is the cluster of the last `ray start` on this machine. Ray itself would take any Ray there, also one that a
    process has started for itself and ends with itself. Raises ConfigError if there is none.
    """
    named = os.environ.get("RAY_ADDRESS")
    address = address or named or "local"
    if address != "auto":
        return address
    started = named if named and named != "auto" else read_ray_address()
    if started is None:
        raise ConfigError(
            "no cluster was started by `ray start` on this machine",
            "the Ray address: auto",
            "start one (`RAY_AUTH_MODE=token ray start --head`), or name it as execution.address: <head>:6379",
        )
    return started


def explain(error: RayError) -> MapjobError | None:
    """What a task or the cluster failed for; None if mapjob is at fault, and the whole trace is what helps."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, MapjobError):
        return cause
    if missing := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", str(error)):
        do = "start Ray on every machine from an environment that has mapjob's packages (mapjob[cluster])"
        return ConfigError(f"a worker of the cluster lacks {missing[1]}", "the Ray cluster", do)
    if isinstance(error, RayTaskError) and not isinstance(cause, RayError):
        return None
    return IncompleteError(f"the cluster failed: {first_line(error)}", "the Ray cluster", RESUME)


class Heartbeat:
    """Whether the cluster is there: its head, and the node that this process is attached to.

    Calls into Ray wait for both for ever, or end this process: seconds after it lost the node.
    """

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        me = [node for node in ray.nodes() if node["NodeID"] == context.get_node_id()]
        self._head = context.gcs_address
        self._node = "".join(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}" for node in me)
        # Ray's client is attached to no node, and reaches the head by another port.
        self._is_near = bool(me) and _listens(self._head) and _listens(self._node)
        self._missing_since: float | None = None

    def check(self) -> bool:
        """False while the head does not answer. Raises IncompleteError if one of them is lost; this process has left
        the cluster by then.
        """
        if not self._is_near:
            return True
        if not _listens(self._node):
            disconnect()
            raise IncompleteError("the Ray node that this process is attached to is lost", self._node, RESUME)
        if _listens(self._head):
            self._missing_since = None
            return True
        self._missing_since = self._missing_since or time.monotonic()
        if time.monotonic() - self._missing_since > HEAD_LOST_AFTER_S:
            disconnect()
            raise IncompleteError("the head of the Ray cluster is lost", self._head, RESUME)
        return False


def heartbeat() -> Heartbeat:
    """That of the Ray which this process has joined: it has known the head since then, and misses one that is lost
    between two passes.
    """
    return _heartbeat_of(ray.get_runtime_context().get_node_id())


@lru_cache(maxsize=1)
def _heartbeat_of(_node_id: str) -> Heartbeat:
    return Heartbeat()


def disconnect() -> None:
    """Leave the cluster; a local Ray ends. Threads of Ray Data that find it gone must not start another one."""
    auto_init_hook.enable_auto_connect = False
    ray.shutdown()


def _listens(address: str) -> bool:
    try:
        _knock(address)
    except OSError:
        return False
    return True


def _knock(address: str) -> None:
    """Raises OSError when nothing listens at host:port. Ray itself would go on trying there for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


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

"""A Ray cluster as its users start one: `ray start` on a head and on each node, with a token and a dashboard."""

import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
NUM_CPUS = 2  # of each node; the head has none for work
ATTEMPTS, START_S = 3, 90.0


@dataclass(frozen=True)
class RunningCluster:
    dashboard: str
    environment: dict[str, str]  # of one who knows the token
    stranger: dict[str, str]  # of one who does not


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start_node(environment: dict[str, str], *options: str) -> subprocess.Popen:
    """`ray start --block`, whose end is the node's; `ray stop` would stop every cluster of this machine."""
    command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", "--dashboard-agent-listen-port", "0"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen([*command, *options], env=environment, **streams)


def wait_until_up(node: subprocess.Popen) -> None:
    said = []
    for line in node.stdout:
        said.append(line)
        if "Ray runtime started" in line:
            return
    raise AssertionError("".join(said))


def start_head(environment: dict[str, str], ray_folder: Path) -> tuple[subprocess.Popen, int, int]:
    """(node, its port, its dashboard's): on other ports if somebody took one of them before Ray did."""
    for _ in range(ATTEMPTS):
        port, dashboard, client = free_ports(3)
        head = ["--head", "--port", str(port), "--num-cpus", "0", "--temp-dir", str(ray_folder)]
        head += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
        node = start_node(environment, *head, "--ray-client-server-port", str(client))
        too_late = threading.Timer(START_S, kill, [[node]])
        too_late.start()
        try:
            wait_until_up(node)
            return node, port, dashboard
        except AssertionError as error:
            failed = error
            end([node])
        finally:
            too_late.cancel()
    raise failed


def kill(nodes: list[subprocess.Popen]) -> None:
    """With all that they started, by force: a node that is asked to end takes half a minute."""
    processes = [psutil.Process(node.pid) for node in nodes]
    children = [child for process in processes for child in process.children(recursive=True)]
    for process in processes + children:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def end(nodes: list[subprocess.Popen]) -> None:
    kill(nodes)
    for node in nodes:
        node.communicate()


@contextmanager
def running_cluster(
    ray_folder: Path, home: Path, num_nodes: int = 2, one_folder: bool = False
) -> Iterator[RunningCluster]:
    """A head that does no work of its own, and nodes; all of it is gone afterwards. home: where Ray finds no token.

    one_folder: they share the head's, as nodes on one machine do; else they have one each, as machines have.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept |= {"HOME": str(home), "PATH": f"{BIN}{os.pathsep}{kept['PATH']}"}
    stranger = kept | {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "160"}
    environment = stranger | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    node, port, dashboard = start_head(environment, ray_folder)
    nodes = [node]
    try:
        for number in range(num_nodes):
            options = ["--num-cpus", str(NUM_CPUS)]
            options += [] if one_folder else ["--temp-dir", str(ray_folder / str(number))]
            nodes.append(start_node(environment, "--address", f"127.0.0.1:{port}", *options))
            wait_until_up(nodes[-1])
        yield RunningCluster(f"http://127.0.0.1:{dashboard}", environment, stranger)
    finally:
        end(nodes)

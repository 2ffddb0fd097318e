"""Servers of tests: processes on free ports of this machine, up when they are needed, gone when they are not."""

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

LONGEST_START_S = 60


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def serving(
    commands: Sequence[Sequence[object]], ports: Sequence[int], log: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """The commands run, and every port is answered, while the context lasts; what they print goes to `log`."""
    with log.open("wb") as out:
        output = {"stdout": out, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        processes = [subprocess.Popen([*map(str, command)], env=environment, **output) for command in commands]
    try:
        until = time.monotonic() + LONGEST_START_S
        for port in ports:
            while not _answers(port):
                if time.monotonic() > until or any(process.poll() is not None for process in processes):
                    raise RuntimeError(f"a server did not come up:\n{log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.05)
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _answers(port: int) -> bool:
    with closing(socket.socket()) as knock:
        return knock.connect_ex(("127.0.0.1", port)) == 0

"""`rclone serve s3`: an S3 server that takes If-None-Match and pays no heed to it."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.storage.servers import free_ports, serving

KEYS = ("tester", "testing")


@contextmanager
def rclone(folder: Path) -> Iterator[str]:
    """The endpoint of an rclone that keeps its buckets below `folder`, while the context lasts."""
    (port,) = free_ports(1)
    (folder / "buckets").mkdir(parents=True)
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "the extra `test` installs rclone"
    options = ["--addr", f"127.0.0.1:{port}", "--auth-key", ",".join(KEYS), "--config", folder / "none"]
    command = [program, "serve", "s3", folder / "buckets", *options]
    with serving([command], [port], folder / "server.log", dict(os.environ)):
        yield f"http://127.0.0.1:{port}"

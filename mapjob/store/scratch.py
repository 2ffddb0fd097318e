"""Local files and folders that outlive no process: a file without a name, and folders that the next process removes."""

import atexit
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar

from mapjob.errors import ConfigError

T = TypeVar("T")
PREFIX = ".mapjob-scratch-"
YOUNG_S = 60.0  # a folder may be made and not locked yet


def temporary_file() -> BinaryIO:
    """An open file without a name: nothing is left of it, however this process ends. Raises ConfigError."""
    return _try(tempfile.TemporaryFile)


@contextmanager
def temporary_folder() -> Iterator[str]:
    """A folder that is gone after the block; after a kill, when the next process of this user makes one.

    Its process holds a lock on it. Raises ConfigError if no temporary folder can be written to.
    """
    _remove_left()
    folder = _try(lambda: tempfile.mkdtemp(prefix=PREFIX))
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


@cache
def process_folder() -> str:
    """A `temporary_folder` for as long as this process runs."""
    stack = ExitStack()
    folder = stack.enter_context(temporary_folder())
    atexit.register(stack.close)
    return folder


def _remove_left() -> None:
    """Remove the folders of processes of this user that were killed."""
    for folder in Path(_try(tempfile.gettempdir)).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another process removes it, or it is another user's
            stat = folder.lstat()
            if stat.st_uid != os.getuid() or time.time() - stat.st_mtime < YOUNG_S:
                continue
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


# Variables that say where a library keeps files, the narrowest first.
FOLDERS = ("HF_MODULES_CACHE", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR", "HOME")


def explain_unwritable(error: OSError) -> ConfigError | None:
    """Which variable's folder a library could not write to; None if the error is another one."""
    for name in FOLDERS:
        folder = os.environ.get(name, "")
        if not folder or not str(error.filename or "").startswith(folder):
            continue
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) or not os.path.isdir(folder):
            what = f"{error.filename} could not be written ({error.strerror})"
            return ConfigError(what, f"{name}={folder}", f"set {name} to a folder that can be written to")
    return None


def _try(make: Callable[[], T]) -> T:
    try:
        return make()
    except OSError as error:
        raise ConfigError(
            f"no temporary folder can be written to ({error.strerror})",
            f"TMPDIR={os.environ.get('TMPDIR', '')} and what stands in for it, such as /tmp",
            "set TMPDIR to a folder on a local disk that can be written to",
        ) from error

"""Storage calls that go wrong: the k-th of a run meets an error, loses its answer, or is the last of its process.

A storage call is what `store/storage.py`, `store/disk.py` and `corpus/remote.py` ask of a file system: methods of
fsspec's file systems, and for puts on the local disk the functions of `os` and `tempfile`, down to the write.
"""

import errno
import gc
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import fsspec
import pytest

import mapjob.store.remote as remote
import mapjob.store.storage as disk
from tests.conftest import forget_filesystems

# kill: SIGKILL instead of the call, or in the middle of a write. broken: an error that no waiting mends. busy: one that
# the next try does not meet. lost: the call is carried out, and its answer never comes. away: this call and all later
# ones raise what a driver of Azure or Google might, which is no OSError.
Mode = Literal["kill", "broken", "busy", "lost", "away"]
PUTS = {"link", "replace", "pipe_file"}
LONGEST_CHILD_S = 120
_inherited: list[Any] = []  # file systems of the parent, kept alive in a fork
_NO_CALLS = {"invalidate_cache", "_parent", "unstrip_protocol", "fileno"}


class StorageAway(Exception):
    """As a library of a cloud words it."""


class Calls:
    """The storage calls of this process while they are `counted`, and what befalls the `at`-th of them (from 1)."""

    def __init__(self, at: int | None = None, mode: Mode = "kill"):
        self.names: list[str] = []
        self._at, self._mode, self._lock = at, mode, threading.Lock()

    @contextmanager
    def counted(self) -> Iterator[None]:
        found = fsspec.core.url_to_fs

        def url_to_fs(url: str, **options: Any) -> tuple[Any, str]:
            fs, path = found(url, **options)
            is_spared = self._mode == "away" and "file" in fs.protocol  # a disk raises nothing of the kind
            return fs if is_spared else _Counted(fs, self), path

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fsspec.core, "url_to_fs", url_to_fs)
            patch.setattr(disk, "os", _Counted(os, self))
            patch.setattr(disk, "tempfile", _Counted(tempfile, self))
            patch.setattr(remote, "FIRST_WAIT_S", 0.001)
            remote.filesystem.cache_clear()
            try:
                yield
            finally:
                remote.filesystem.cache_clear()

    def make(self, name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with self._lock:
            self.names.append(name)
            is_hit = len(self.names) == self._at
            is_hit |= self._mode == "away" and self._at is not None and len(self.names) > self._at
        if not is_hit:
            return call(*arguments, **options)
        if name == "write":
            call(arguments[0][: len(arguments[0]) // 2])
        elif self._mode == "lost":
            call(*arguments, **options)
        if self._mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._mode == "broken":
            raise OSError(errno.EIO, "broken by the test")
        if self._mode == "away":
            raise StorageAway("put away by the test")
        raise TimeoutError(errno.ETIMEDOUT, "busy by the test")


class _Counted:
    """A module, file system or file whose calls are counted."""

    def __init__(self, inner: Any, calls: Calls):
        self._inner, self._calls = inner, calls

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value) or name in _NO_CALLS:
            return value

        def counted(*arguments: Any, **options: Any) -> Any:
            result = self._calls.make(name, value, *arguments, **options)
            return _Counted(result, self._calls) if name == "fdopen" else result

        return counted

    def __enter__(self) -> Any:
        self._inner.__enter__()
        return self

    def __exit__(self, *raised: Any) -> Any:
        return self._inner.__exit__(*raised)


def killed(work: Callable[[], Any], at: int) -> bool:
    """Whether a fork of this process that does `work` was killed at its `at`-th storage call, before it was done."""
    s3 = fsspec.get_filesystem_class("s3")  # imported here, not in each child
    child = os.fork()
    if child == 0:
        signal.alarm(LONGEST_CHILD_S)
        # Connections do not survive a fork, and are not to be closed in one: what is taken out of the epoll, which a
        # fork shares, is not read in the parent any more, until its request times out. So nothing is finalized here.
        gc.freeze()
        _inherited.extend(s3._cache.values())
        forget_filesystems()
        try:
            with Calls(at).counted():
                work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"the child ended with status {status}"
    return status == signal.SIGKILL

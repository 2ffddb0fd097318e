"""Create-only puts on a local disk and on object storage: a name, once written, holds one finished object for good."""

import errno
import os
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TypeVar

from mapjob.errors import ConfigError
from mapjob.store.remote import answer, as_mapjob_error, filesystem, retry

T = TypeVar("T")

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV}
TIMES = ("mtime", "LastModified", "last_modified")  # as drivers call the time of change
SCRATCH = ".writing"
ELSE = "use a store with create-only puts (AWS S3, GCS, R2, Ceph, MinIO, Swift) or a disk with hard links"


class Storage:
    """Objects below one root URL. Reads and writes whole objects; nothing is streamed into a final name.

    On a local disk unfinished files live in `.writing/` of the root, so that a killed writer leaves nothing elsewhere.
    """

    def __init__(self, url: str, scratch: str | None = None):
        self.url = url.rstrip("/")
        self.fs, root = filesystem(self.url)
        self.root = root.rstrip("/")
        self.is_local = "file" in self.fs.protocol
        self._scratch = scratch or f"{self.root}/{SCRATCH}"

    def below(self, *parts: str) -> "Storage":
        return Storage("/".join([self.url, *parts]), self._scratch)

    def is_same(self, other: "Storage") -> bool:
        """Whether both have one root."""
        return self.is_local == other.is_local and os.path.realpath(self.root) == os.path.realpath(other.root)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def check_conditions(self) -> None:
        """Raises ConfigError if one writer could overwrite another here: tried with a probe object.

        Not every object store honours If-None-Match, and not every disk has hard links.
        """
        probe = f"{SCRATCH}/probe-{uuid.uuid4().hex}"
        overwritten = self.create(probe, b"first") and self.create(probe, b"second")
        with suppress(ConfigError):  # a run needs no right to remove anything
            self.remove(probe)
        if overwritten:
            raise self._cannot_create("this store ignores If-None-Match")

    def _cannot_create(self, why: str) -> ConfigError:
        return ConfigError(f"{why}, so two writers could overwrite each other", self.url, ELSE)

    def _retry(self, verb: str, name: str, work: Callable[[], T], missing: tuple[type[OSError], ...] = ()) -> T | None:
        """The result of `work`, retried; None for an error of a kind in `missing`. Raises MapjobError for any other."""
        try:
            return retry(work)
        except missing:
            return None
        except OSError as error:
            raise as_mapjob_error(error, f"{self.url}/{name}", verb) from error

    def create(self, name: str, data: bytes) -> bool:
        """Put a new object whole. Returns False if the name is taken; what is stored there is left as it is."""
        create = self._create_file if self.is_local else self._put_if_absent
        return bool(self._retry("written", name, lambda: create(name, data)))

    def _create_file(self, name: str, data: bytes) -> bool:
        """Write a temporary file, and give it its name by an exclusive hard link."""
        path, temporary = self._write_scratch(name, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            raise ConnectionError("the folder was removed in the meantime") from error
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise self._cannot_create(f"this disk has no hard links ({error.strerror})") from error
            raise
        finally:
            os.unlink(temporary)
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return True

    def _write_scratch(self, name: str, data: bytes) -> tuple[str, str]:
        """(path of the name, path of a temporary file that is written and synced); the folders of both are created."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.makedirs(self._scratch, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self._scratch)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # temporary files are private; a shared store is read by others
        except OSError:  # a full disk, say
            os.unlink(temporary)
            raise
        return path, temporary

    def _put_if_absent(self, name: str, data: bytes) -> bool:
        # A put that is retried after a lost answer may meet its own first try. The name then looks taken, and the
        # caller finds there what it wanted to write, and adopts it.
        try:
            self._put(name, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # S3 answers 412 to If-None-Match on an existing key; drivers word it differently.
            if answer(error)[0] == 412 or "preconditions" in str(error).lower():
                return False
            if answer(error)[0] == 501:
                raise self._cannot_create("this store does not know If-None-Match") from error
            raise
        self.fs.invalidate_cache(self.fs._parent(self.path(name)))
        return True

    def _put(self, name: str, data: bytes, mode: str = "overwrite") -> None:
        try:
            self.fs.pipe_file(self.path(name), data, mode=mode)
        except FileNotFoundError as error:
            if answer(error)[1] in ("NoSuchKey", "NoSuchUpload"):
                # A large object goes in parts. If the last answer is lost, no upload is left to complete.
                raise ConnectionError("the answer to a put in parts was lost") from None
            raise

    def replace(self, name: str, data: bytes) -> None:
        """Put an object over whatever has this name, whole. Only for latest.json, and for `mapjob forget`."""
        replace = self._replace_file if self.is_local else self._put
        self._retry("written", name, lambda: replace(name, data))

    def _replace_file(self, name: str, data: bytes) -> None:
        path, temporary = self._write_scratch(name, data)
        try:
            os.replace(temporary, path)
        except OSError:
            with suppress(FileNotFoundError):  # renamed, and only the answer was lost
                os.unlink(temporary)
            raise

    def read(self, name: str) -> bytes | None:
        """The whole object, or None if there is none."""
        missing = (FileNotFoundError, NotADirectoryError)
        return self._retry("read", name, lambda: self._get(self.path(name)), missing)

    def _get(self, path: str) -> bytes:
        if "s3" not in self.fs.protocol:
            return self.fs.cat_file(path)
        try:
            return self.fs.cat_file(path, start=0)  # s3fs asks for the size of what is read without a range
        except OSError as error:
            if answer(error)[0] == 416:  # there is no range in nothing
                return b""
            raise

    def names(self, folder: str = "") -> list[str]:
        """Names of the objects and folders directly below `folder`, sorted; empty if there is no such folder."""
        self.fs.invalidate_cache()
        path = self.path(folder).rstrip("/")
        entries = self._retry("listed", folder, lambda: self.fs.ls(path, detail=False), (FileNotFoundError,))
        return sorted({PurePosixPath(entry.rstrip("/")).name for entry in entries or ()} - {SCRATCH})

    def files(self, name: str) -> list[tuple[int, float]]:
        """(bytes, time of change) of an object, or of every object below a folder; empty if there is none."""
        self.fs.invalidate_cache()
        infos = self._retry("listed", name, lambda: self.fs.find(self.path(name), detail=True), (FileNotFoundError,))
        times = [(info["size"], next(filter(None, map(info.get, TIMES)), None)) for info in (infos or {}).values()]
        # Drivers give a datetime, or seconds since 1970.
        return [(size, at.timestamp() if hasattr(at, "timestamp") else float(at or 0.0)) for size, at in times]

    def remove(self, name: str) -> None:
        """Remove an object, or a folder with everything below it. For what no run needs, and `mapjob forget`."""
        self._retry("removed", name, lambda: self.fs.rm(self.path(name), recursive=True), (FileNotFoundError,))

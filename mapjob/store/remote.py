"""File systems behind URLs: finite timeouts, bounded retries, errors for people, and no secret in any text."""

import errno
import io
import logging
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from typing import Any, TypeVar

import fsspec

from mapjob.errors import ConfigError, IncompleteError, MapjobError, check_extra
from mapjob.escaping import first_line, redact

logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # what it logs it raises too; Python would print both

T = TypeVar("T")

ATTEMPTS = 6  # with the waits between them, half a minute to a minute: what a throttled bucket takes to calm down
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 20.0
LAST_ATTEMPT_S = 120.0  # after the first: some drivers try for a minute and more by themselves
# s3fs tries each request five times by itself; botocore underneath would multiply that. A cached listing would
# hide what other processes write, and that a file was replaced.
S3_OPTIONS = {
    "config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 0}},
    "use_listings_cache": False,
}
ONE_SLASH = re.compile(r"(?:^|/)([a-z][a-z0-9]*):/")  # also behind the folder that made it an absolute path
_TRANSIENT_ERRNO = {errno.EBUSY, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE}
_TRANSIENT_ERRNO |= {errno.ESTALE}  # of a network disk
_TRANSIENT_CODES = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException"}
_TRANSIENT_CODES |= {"ConditionalRequestConflict", "OperationAborted"}  # of two puts of one name at the same moment
_LIBRARIES = ("aiohttp", "urllib3", "http", "httpx", "httpx2", "fsspec")
_STATUSES = ("status_code", "status", "code")
_EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}


@lru_cache(maxsize=8)
def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(fsspec filesystem, path in it) of a URL. `hf://org/name` is the dataset of that name on the hub.

    Raises ConfigError for a URL that carries a secret: those belong in the environment, or in an instance's role.
    """
    if redact(url) != url:
        raise ConfigError(
            "this URL holds a password, key or token, which would reach manifests and logs",
            redact(url),
            "put credentials in the environment (AWS_ACCESS_KEY_ID, HF_TOKEN and such) or give the machine a role",
        )
    slip = None if "://" in url else ONE_SLASH.search(url)
    if slip and slip[1] in fsspec.available_protocols():
        do = f"write {slip[1]}://, with two slashes"
        raise ConfigError("this looks like a URL, with one slash", url, do)
    is_s3 = url.startswith(("s3://", "s3a://"))
    endpoints = {name: os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")}
    if is_s3 and (named := [name for name, endpoint in endpoints.items() if redact(endpoint) != endpoint]):
        raise ConfigError(
            "the endpoint's URL holds a password, which S3 has no use for and logs would repeat",
            named[0],
            "take it out of the URL; credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if "::" in url:
        do = "give the URL of one storage; a file with such a name has to be renamed"
        raise ConfigError("this URL chains several storages (::), which is not supported", url, do)
    if url.startswith("hf://") and not url.startswith("hf://datasets/"):
        url = "hf://datasets/" + url.removeprefix("hf://")
    if is_s3:
        check_extra("s3fs", "s3", "S3", url)
    options = S3_OPTIONS if is_s3 else {}
    try:
        fsspec.get_filesystem_class(fsspec.core.split_protocol(url)[0] or "file")
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"no storage driver for this URL: {error}", url, "use a local path or an fsspec URL"
        ) from None
    try:
        with _storage_errors():
            fs, path = fsspec.core.url_to_fs(url, **options)
    except OSError as error:
        raise as_mapjob_error(error, url, "opened") from error
    return (fs if "file" in fs.protocol else Driver(fs)), path


class DriverError(OSError):
    """What a driver raised that is no OSError, which is its cause."""


@contextmanager
def _storage_errors() -> Iterator[None]:
    """A call of a driver: what that raises is its storage's, whatever its class, unless it is a fault of the call."""
    try:
        yield
    except (OSError, MapjobError, TypeError, AttributeError, NameError, AssertionError):
        raise
    except Exception as error:
        raise DriverError(f"{type(error).__name__}: {first_line(error)}") from error


class Driver:
    """A file system of fsspec's whose calls, and reads of what it opens, raise OSError for whatever the storage does.

    Azure's and Google's libraries have classes of errors of their own, and their drivers pass them on.
    """

    def __init__(self, fs: fsspec.AbstractFileSystem):
        self._fs = fs

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return Driver, (self._fs,)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._fs, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            with _storage_errors():
                result = value(*arguments, **options)
                return _DriverFile(result) if name == "open" and result.readable() else result

        return call

    def find(self, path: str, **options: Any) -> dict[str, dict[str, Any]]:
        """What is told of every file below `path`, by its path. Of a path that is a file adlfs gives its name alone."""
        with _storage_errors():
            infos = self._fs.find(path, **{**options, "detail": True})
            return infos if isinstance(infos, dict) else {name: self._fs.info(name) for name in infos}


class _DriverFile(io.RawIOBase):
    """An open file of a driver."""

    def __init__(self, file: Any):
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _storage_errors():  # from the end: asks for the size
            return self._file.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        with _storage_errors():
            return self._file.read(-1 if size is None else size)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def retry(work: Callable[[], T]) -> T:
    """The result of `work`, which may be called more than once: a throttled storage gets time to recover.

    Waits grow from half a second with jitter. What retrying cannot fix (403, 404, a full disk) is raised at once. What
    is raised is an OSError, or no fault of the storage.
    """
    start = time.monotonic()
    for attempt in count():
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            if attempt == ATTEMPTS - 1 or time.monotonic() - start > LAST_ATTEMPT_S:
                if isinstance(error, OSError):
                    raise
                raise ConnectionError(f"{type(error).__name__}: {error}") from error  # of an HTTP library
        time.sleep(random.uniform(0.5, 1.0) * min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt))


def answer(error: BaseException | None) -> tuple[int, str]:
    """(HTTP status, error code) that an object store answered with; (0, "") for an error that is no answer."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # botocore's
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return status, str(response.get("Error", {}).get("Code", ""))
        # The hub's and Google's (response), Azure's, aiohttp's, gcsfs's; a number of another kind is none of HTTP's.
        statuses = (getattr(response, "status_code", None), *(getattr(error, name, None) for name in _STATUSES))
        for status in statuses:
            if isinstance(status, int) and 100 <= status < 600:
                return int(status), ""
        error = error.__cause__
    return 0, ""


def is_transient(error: BaseException | None) -> bool:
    """Whether the same request may succeed in a while: throttling, server errors, timeouts, broken connections."""
    status, code = answer(error)
    if status:
        return code in _TRANSIENT_CODES or status == 429 or (status >= 500 and status != 501)  # 501: never will
    if error is None or isinstance(error, (FileNotFoundError, FileExistsError, PermissionError)):
        return False
    if isinstance(error, (TimeoutError, ConnectionError, socket.gaierror)):
        return True
    # Drivers wrap what their HTTP libraries raise, each with its own names for the same few faults.
    if isinstance(error, DriverError) or type(error).__module__.split(".")[0] in _LIBRARIES:
        return not _is_refusal(error)
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO:
        return True
    return is_transient(error.__cause__)


def _is_refusal(error: Exception) -> bool:
    """Whether a driver or its library says that it cannot do this at all: asking again changes nothing."""
    root = error.__cause__ if isinstance(error, DriverError) else error
    named = any(word in type(root).__name__ for word in ("Credentials", "Param", "Authentication", "Validation"))
    return named or isinstance(root, (ValueError, LookupError, NotImplementedError))


def is_of_content(error: Exception) -> bool:
    """Whether an error of reading is about what the file holds: pyarrow raises OSError too, without a number."""
    if isinstance(error, FileNotFoundError):
        return True
    return not (answer(error)[0] or is_transient(error)) and (
        not isinstance(error, OSError) or (type(error) is OSError and error.errno is None)
    )


def as_mapjob_error(error: Exception, url: str, verb: str) -> MapjobError:
    """The error of an object for people; `verb` is what could not be done to it.

    A ConfigError if the same command would fail again; an IncompleteError if it resumes once the storage is well.
    """
    url = redact(url)
    what = f"this object could not be {verb} ({first_line(getattr(error, 'strerror', None) or error)})"
    status, code = answer(error)
    number, kind = getattr(error, "errno", None), type(error.__cause__ or error).__name__
    again = "run the same command again: it resumes from what is committed"
    if code in _EXPIRED_CODES:
        return IncompleteError(f"the credentials expired: {what}", url, f"renew them, then {again}")
    if is_transient(error):
        no_answer = f"the storage did not answer in {ATTEMPTS} attempts"
        return IncompleteError(f"{no_answer}: {what}", url, f"when it is well, {again}")
    if number in (errno.ENOSPC, errno.EDQUOT):
        return IncompleteError(f"the storage is full: {what}", url, f"make room, then {again}")
    if isinstance(error, PermissionError) or "Credentials" in kind or "Authentication" in kind or status in (401, 403):
        do = "check the credentials (did they expire?) and the rights"  # an answer to HEAD says no more than 403
        return ConfigError(f"not allowed: {what}", url, do)
    if isinstance(error, FileNotFoundError):
        return ConfigError(f"no such folder or bucket: {what}", url, "create it, or fix the URL")
    if number == errno.EROFS:
        return ConfigError(what, url, "give a path that can be written to")
    if 400 <= status < 500 or isinstance(error, (NotADirectoryError, IsADirectoryError)) or _is_refusal(error):
        return ConfigError(what, url, "check the URL and what is stored there")
    return IncompleteError(what, url, f"fix the storage, then {again}")

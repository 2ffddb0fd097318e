"""File systems behind URLs: finite timeouts, bounded retries, errors for people, and no secret in any text."""

import errno
import os
import random
import socket
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from typing import TypeVar

import fsspec

from mapjob.errors import ConfigError, IncompleteError, MapjobError, check_extra
from mapjob.escaping import first_line, redact

T = TypeVar("T")

ATTEMPTS = 6  # with the waits between them, half a minute to a minute: what a throttled bucket takes to calm down
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 20.0
# s3fs tries each request five times by itself; botocore underneath would multiply that. A cached listing would
# hide what other processes write, and that a file was replaced.
S3_OPTIONS = {
    "config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 0}},
    "use_listings_cache": False,
}
try:
    from botocore.exceptions import BotoCoreError

    BOTOCORE_ERRORS: tuple[type[Exception], ...] = (BotoCoreError,)
except ImportError:  # without the extra `s3`
    BOTOCORE_ERRORS = ()
STORAGE_ERRORS = (OSError, *BOTOCORE_ERRORS)  # botocore's: no credentials, a connection that never came up
_TRANSIENT_ERRNO = {errno.EBUSY, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE}
_TRANSIENT_ERRNO |= {errno.ESTALE}  # of a network disk
_TRANSIENT_CODES = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException"}
_TRANSIENT_CODES |= {"ConditionalRequestConflict", "OperationAborted"}  # of two puts of one name at the same moment
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
        return fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"no storage driver for this URL: {error}", url, "use a local path or an fsspec URL"
        ) from None


def retry(work: Callable[[], T]) -> T:
    """The result of `work`, which may be called more than once: a throttled storage gets time to recover.

    Waits grow from half a second with jitter. What retrying cannot fix (403, 404, a full disk) is raised at once. What
    is raised is one of STORAGE_ERRORS, or no fault of the storage.
    """
    for attempt in count():
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            if attempt == ATTEMPTS - 1:
                if isinstance(error, STORAGE_ERRORS):
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
        if isinstance(status := getattr(response, "status_code", None), int):  # the hub's
            return status, ""
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
    if type(error).__module__.split(".")[0] in ("botocore", "aiohttp", "urllib3", "http", "httpx", "httpx2", "fsspec"):
        return "Credentials" not in type(error).__name__ and "Param" not in type(error).__name__
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO:
        return True
    return is_transient(error.__cause__)


def is_of_content(error: Exception) -> bool:
    """Whether an error of reading is about what the file holds: pyarrow raises OSError too, without a number."""
    if isinstance(error, FileNotFoundError):
        return True
    return not (isinstance(error, BOTOCORE_ERRORS) or answer(error)[0] or is_transient(error)) and (
        not isinstance(error, OSError) or (type(error) is OSError and error.errno is None)
    )


def as_mapjob_error(error: Exception, url: str, verb: str) -> MapjobError:
    """The error of an object for people; `verb` is what could not be done to it.

    A ConfigError if the same command would fail again; an IncompleteError if it resumes once the storage is well.
    """
    url = redact(url)
    what = f"this object could not be {verb} ({first_line(getattr(error, 'strerror', None) or error)})"
    status, code = answer(error)
    number, kind = getattr(error, "errno", None), type(error).__name__
    again = "run the same command again: it resumes from what is committed"
    if code in _EXPIRED_CODES:
        return IncompleteError(f"the credentials expired: {what}", url, f"renew them, then {again}")
    if is_transient(error):
        no_answer = f"the storage did not answer in {ATTEMPTS} attempts"
        return IncompleteError(f"{no_answer}: {what}", url, f"when it is well, {again}")
    if number in (errno.ENOSPC, errno.EDQUOT):
        return IncompleteError(f"the storage is full: {what}", url, f"make room, then {again}")
    if isinstance(error, PermissionError) or "Credentials" in kind or status in (401, 403):
        do = "check the credentials (did they expire?) and the rights"  # an answer to HEAD says no more than 403
        return ConfigError(f"not allowed: {what}", url, do)
    if isinstance(error, FileNotFoundError):
        return ConfigError(f"no such folder or bucket: {what}", url, "create it, or fix the URL")
    if number == errno.EROFS:
        return ConfigError(what, url, "give a path that can be written to")
    if 400 <= status < 500 or isinstance(error, (NotADirectoryError, IsADirectoryError)) or "Param" in kind:
        return ConfigError(what, url, "check the URL and what is stored there")
    return IncompleteError(what, url, f"fix the storage, then {again}")

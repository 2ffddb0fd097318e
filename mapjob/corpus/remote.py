"""File systems behind URLs: finite timeouts, bounded retries, errors for people, and no secret in any text."""

import errno
import random
import re
import socket
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import fsspec

from mapjob.errors import ConfigError, IncompleteError, MapjobError

T = TypeVar("T")

ATTEMPTS = 6  # with the waits between them, half a minute to a minute: what a throttled bucket takes to calm down
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 20.0
# s3fs tries each request five times by itself; botocore underneath would multiply that.
S3_OPTIONS = {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 0}}}
_SECRET = re.compile(r"(?<=://)[^/@]*:[^/@]*@|(?<=[?&])[^=&]*(?:key|secret|token|signature|sig)[^=&]*=[^&\s]*", re.I)
_TRANSIENT_ERRNO = {errno.EBUSY, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE}
_TRANSIENT_CODES = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestTimeTooSkewed"}


def redacted(text: str) -> str:
    """The text without user:password and signatures in its URLs."""
    return _SECRET.sub("…", text)


@lru_cache(maxsize=8)
def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(fsspec filesystem, path in it) of a URL. `hf://org/name` is the data set of that name on the hub.

    Raises ConfigError for a URL that carries a secret: those belong into the environment, or an instance's role.
    """
    if redacted(url) != url:
        raise ConfigError(
            "this URL holds a password, key or token, which would reach manifests and logs",
            redacted(url),
            "put credentials into the environment (AWS_ACCESS_KEY_ID, HF_TOKEN and such) or give the machine a role",
        )
    if url.startswith("hf://") and not url.startswith("hf://datasets/"):
        url = "hf://datasets/" + url.removeprefix("hf://")
    options = S3_OPTIONS if url.startswith(("s3://", "s3a://")) else {}
    try:
        return fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"no storage driver for this URL: {error}", url, "use a local path or an fsspec URL"
        ) from None


def retried(work: Callable[[], T]) -> T:
    """The result of `work`, which may be done more than once; storage that is out of breath gets time.

    Waits grow from half a second with jitter. What no waiting mends (403, 404, a full disk) is raised at once.
    """
    for attempt in range(ATTEMPTS):
        try:
            return work()
        except Exception as error:
            if not is_transient(error) or attempt == ATTEMPTS - 1:
                raise
        time.sleep(random.uniform(0.5, 1.0) * min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt))
    raise AssertionError("the last attempt returns or raises")


def is_transient(error: BaseException | None) -> bool:
    """Whether the same request may succeed in a while: throttling, server errors, timeouts, broken connections."""
    if error is None or isinstance(error, (FileNotFoundError, FileExistsError, PermissionError)):
        return False
    if isinstance(error, (TimeoutError, ConnectionError, socket.gaierror)):
        return True
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or response.get("Error", {}).get("Code") in _TRANSIENT_CODES
    # Drivers wrap what their HTTP libraries raise, and each of those has names of its own for the same few faults.
    if type(error).__module__.split(".")[0] in ("botocore", "aiohttp", "urllib3", "http", "httpx", "fsspec"):
        return "Credentials" not in type(error).__name__ and "Param" not in type(error).__name__
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO:
        return True
    return is_transient(error.__cause__)


def explained(error: Exception, url: str, verb: str) -> MapjobError:
    """What went wrong with an object, for people; `verb` is what could not be done to it."""
    url = redacted(url)
    what = redacted(str(getattr(error, "strerror", None) or error).strip().split("\n")[0])
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return ConfigError(
            f"not allowed: this object cannot be {verb} ({what})", url, "check the credentials and the rights"
        )
    if isinstance(error, FileNotFoundError):
        return ConfigError(f"no such folder or bucket: this object cannot be {verb}", url, "create it, or mend the URL")
    if is_transient(error):
        return IncompleteError(
            f"the storage did not answer in {ATTEMPTS} attempts: this object could not be {verb} ({what})",
            url,
            "run the same command again when it is well: it goes on from what is committed",
        )
    return MapjobError(f"{what}: this object could not be {verb}", url, "mend it, run again")

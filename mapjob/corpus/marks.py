"""Marks: what tells, without reading it, whether a file is still the one it was."""

import os
from collections.abc import Mapping
from typing import Any

import fsspec

from mapjob.store.remote import as_mapjob_error, filesystem, retry

Info = Mapping[str, Any]  # what a storage tells of a file
CHECKSUMS = ("ETag", "etag", "blob_id", "xet_hash", "md5Hash", "Content-MD5", "content_md5", "Digest", "generation")
TIMES = ("times", "mtime", "LastModified", "last_modified", "Last-Modified")


def mark_now(url: str) -> str | None:
    """The mark of a file as it is now. Raises MapjobError if the storage does not tell."""
    fs, path = filesystem(url)
    try:
        return mark_of(retry(lambda: info_of(fs, path)))
    except OSError as error:
        raise as_mapjob_error(error, url, "read") from error


def info_of(fs: fsspec.AbstractFileSystem, path: str) -> Info:
    """What a storage tells of a file now. Raises OSError."""
    if "file" in fs.protocol:
        at = os.stat(path)
        return {"size": at.st_size, "times": f"{at.st_mtime_ns}-{at.st_ctime_ns}-{at.st_ino}"}
    return fs.info(path, **fresh(fs), **({"expand_info": True} if fs.protocol == "hf" else {}))


def mark_of(info: Info) -> str | None:
    """What changes with the content of a file: a checksum if its storage has one, else its size with its time of change
    (on a local disk also that of its inode, which no copy sets); None if the storage tells neither.
    """
    lfs = info.get("lfs")
    sha256 = lfs.get("sha256") if isinstance(lfs, Mapping) else getattr(lfs, "sha256", None)
    checksum = next((mark for mark in (*map(info.get, CHECKSUMS), sha256) if mark), None)
    if checksum is not None:
        return str(checksum)
    time = next((time for time in map(info.get, TIMES) if time), None)
    return None if time is None else f"{info.get('size')}-{time}"


def fresh(fs: fsspec.AbstractFileSystem) -> dict[str, bool]:
    """What makes a driver ask its storage, and not its own memory of a listing."""
    return {"refresh": True} if fs.protocol == "hf" else {}

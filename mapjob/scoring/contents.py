"""The content of a model's files as hashes, remembered for as long as stat says that a file is the same."""

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

# A file that was written so shortly before could be written again without stat telling.
SETTLED_NS = 2 * 10**9


class Stamp(NamedTuple):
    """What stat says of a file. Another content has another stamp, on this machine or on another one."""

    path: str
    num_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, file: Path) -> "Stamp":
        stat = file.stat()
        return cls(str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


_digests: dict[Stamp, bytes] = {}
Known = tuple[tuple[Stamp, bytes], ...]


def content_hash(folder: Path, files: Iterable[Path]) -> str:
    """A hash of names and contents: a copied folder is the same model, a changed byte is another one.

    A file is read only if stat says something new of it.
    """
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + _digest(file))
    return digest.hexdigest()


def known_digests(files: Iterable[Path]) -> Known:
    """What this process remembers of files, for another process that has not read them yet."""
    stamps = map(Stamp.of, sorted(set(files)))
    return tuple((stamp, _digests[stamp]) for stamp in stamps if stamp in _digests)


def remember(known: Known) -> None:
    """Take over what another process has read."""
    _digests.update(known)


def _digest(file: Path) -> bytes:
    stamp = Stamp.of(file)
    if stamp in _digests:
        return _digests[stamp]
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").digest()
    if Stamp.of(file) == stamp and time.time_ns() - max(stamp.modified_ns, stamp.changed_ns) > SETTLED_NS:
        _digests[stamp] = digest
    return digest

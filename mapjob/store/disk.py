"""Puts on a local disk: a file is written and synced elsewhere, and only then gets its name, whole."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import PurePosixPath

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV}


class NoHardLinks(OSError):
    """This disk cannot give a file its name exclusively."""


def create_file(path: PurePosixPath, data: bytes, scratch: str) -> bool:
    """A finished temporary file in the folder `scratch` gets its name by an exclusive hard link.

    Returns False when the name is taken. Raises NoHardLinks, and OSError as the disk does.
    """
    temporary = _write_scratch(path, data, scratch)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise NoHardLinks(error.errno, error.strerror) from error
        raise
    finally:
        os.unlink(temporary)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def replace_file(path: PurePosixPath, data: bytes, scratch: str) -> None:
    """A finished temporary file in the folder `scratch` takes the name, whatever had it. Raises OSError."""
    temporary = _write_scratch(path, data, scratch)
    try:
        os.replace(temporary, path)
    except OSError:
        with suppress(FileNotFoundError):  # renamed, and only the answer was lost
            os.unlink(temporary)
        raise


def _write_scratch(path: PurePosixPath, data: bytes, scratch: str) -> str:
    """A finished, synced file in the scratch folder, and the folder that `path` will stand in."""
    os.makedirs(path.parent, exist_ok=True)
    os.makedirs(scratch, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=scratch)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # temporary files are private; a shared store is read by others
    except OSError:  # a full disk, say
        os.unlink(temporary)
        raise
    return temporary

"""Folders of the local disk: links to folders are followed, and nothing is read twice for that."""

import os
from collections.abc import Iterable


def walk(root: str) -> tuple[list[str], list[str]]:
    """(names of the files below a folder, links that are not followed), relative to it.

    Links to folders are followed, but a folder that several ways lead to is walked once. Raises OSError for a folder
    that may not be read.
    """
    root = root.rstrip("/") or "/"
    files: list[str] = []
    links: list[str] = []
    not_followed: list[str] = []
    seen = {os.path.realpath(root)}

    def visit(top: str) -> None:
        for folder, folders, names in os.walk(top, onerror=_raise):
            files.extend(os.path.join(folder, name) for name in names)
            inner = [(name, os.path.join(folder, name)) for name in sorted(folders)]
            links.extend(path for _, path in inner if os.path.islink(path))
            folders[:] = [name for name, path in inner if os.path.realpath(path) not in seen]
            seen.update(os.path.realpath(path) for _, path in inner if not os.path.islink(path))

    visit(root)
    while links:
        link = links.pop(0)
        target = os.path.realpath(link)
        if target in seen or f"{os.path.realpath(root)}/".startswith(f"{target.rstrip('/')}/"):
            not_followed.append(link)
        else:
            seen.add(target)
            visit(link)
    return tuple(sorted(os.path.relpath(path, root) for path in paths) for paths in (files, not_followed))


def _raise(error: OSError) -> None:
    raise error


def once(root: str, names: Iterable[str]) -> list[str]:
    """Names below a folder, sorted; of those that links make the same file of, the shortest."""
    by_place = {}
    for name in sorted(names, key=lambda name: (name.count("/"), name), reverse=True):
        folder, _, base = f"{root.rstrip('/')}/{name}".rpartition("/")
        by_place[os.path.realpath(folder), base] = name
    return sorted(by_place.values())

"""As much of the hub's HTTP API as reading a data set meets: revisions, trees, files by ranges; kept in memory."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.json_server import JsonHandler, serve

Files = dict[str, bytes]
_API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)/?(.*))?")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.*)")


class Hub:
    """repositories: (name, revision) -> files by path. requests: `METHOD path` of each, in order."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Files] = {}
        self.requests: list[str] = []
        self.url = ""


def _entry(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def _tree(files: Files, below: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{below}/" if below else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, data in files.items():
        parts = path.removeprefix(prefix).split("/")
        if not path.startswith(prefix):
            continue
        for end in range(1, len(parts)):
            folder = prefix + "/".join(parts[:end])
            entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
        entries[path] = _entry(path, data)
    return [entry for path, entry in entries.items() if recursive or "/" not in path.removeprefix(prefix)]


@contextmanager
def hub() -> Iterator[Hub]:
    kept = Hub()

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            self._handle(b"")

        def do_HEAD(self) -> None:
            self._handle(b"")

        def do_POST(self) -> None:
            self._handle(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        def _handle(self, body: bytes) -> None:
            kept.requests.append(f"{self.command} {self.path}")
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if match := _FILE.fullmatch(url.path):
                name, revision, path = map(unquote, match.groups())
                self._send_file(kept.repositories[name, revision][path])
                return
            match = _API.fullmatch(url.path)
            if match is None:
                self.answer({"error": url.path}, 404)
                return
            name, what, revision, path = match.groups()
            revision, path = unquote(revision or "main"), unquote(path or "")
            files = kept.repositories.get((name, revision))
            if files is None:
                is_there = any(name == other for other, _ in kept.repositories)
                code = "RevisionNotFound" if is_there else "RepoNotFound"
                self.answer({"error": "not found"}, 404 if is_there else 401, {"X-Error-Code": code})
            elif what == "tree":
                entries = _tree(files, path, query.get("recursive") in (["true"], ["True"]))
                missing = {"X-Error-Code": "EntryNotFound"} if not entries else {}
                self.answer(entries if entries else {"error": "no entry"}, 200 if entries else 404, missing)
            elif what == "paths-info":
                wanted = parse_qs(body.decode())["paths"]
                self.answer([_entry(path, files[path]) for path in wanted if path in files])
            else:
                self.answer({"id": name, "sha": "0" * 40, "private": False, "tags": [], "siblings": []})

        def _send_file(self, data: bytes) -> None:
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            part = data[int(span[1]) : int(span[2]) + 1 if span[2] else None] if span else data
            headers = {"ETag": hashlib.sha1(data).hexdigest(), "X-Repo-Commit": "0" * 40}
            self.send(part, 206 if span else 200, headers)

    with serve(Handler) as kept.url:
        yield kept

"""As much of the hub's HTTP API as reading a data set meets: revisions, trees, files by ranges; kept in memory."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

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

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

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
            if found := _FILE.fullmatch(url.path):
                name, revision, path = map(unquote, found.groups())
                self._send_file(kept.repositories[name, revision][path])
                return
            found = _API.fullmatch(url.path)
            if found is None:
                self._answer({"error": url.path}, 404)
                return
            name, what, revision, path = found.groups()
            revision, path = unquote(revision or "main"), unquote(path or "")
            files = kept.repositories.get((name, revision))
            if files is None:
                is_there = any(name == other for other, _ in kept.repositories)
                code = "RevisionNotFound" if is_there else "RepoNotFound"
                self._answer({"error": "not found"}, 404 if is_there else 401, {"X-Error-Code": code})
            elif what == "tree":
                entries = _tree(files, path, query.get("recursive") in (["true"], ["True"]))
                missing = {"X-Error-Code": "EntryNotFound"} if not entries else {}
                self._answer(entries if entries else {"error": "no entry"}, 200 if entries else 404, missing)
            elif what == "paths-info":
                wanted = parse_qs(body.decode())["paths"]
                self._answer([_entry(path, files[path]) for path in wanted if path in files])
            else:
                self._answer({"id": name, "sha": "0" * 40, "private": False, "tags": [], "siblings": []})

        def _send_file(self, data: bytes) -> None:
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            part = data[int(span[1]) : int(span[2]) + 1 if span[2] else None] if span else data
            headers = {"ETag": hashlib.sha1(data).hexdigest(), "X-Repo-Commit": "0" * 40}
            self._send(part, 206 if span else 200, headers)

        def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

        def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for header, text in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(header, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield kept
        server.shutdown()

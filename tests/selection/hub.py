"""As much of the hub's HTTP API as an upload of a small data set meets; what was committed is kept in memory."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.json_server import JsonHandler, serve


class Hub:
    """repositories: name -> is it private. files: of each repository, by path."""

    def __init__(self) -> None:
        self.repositories: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.url = ""


@contextmanager
def hub() -> Iterator[Hub]:
    kept = Hub()

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            name = "/".join(self.path.split("?")[0].split("/")[3:5])
            if name not in kept.repositories:
                self.answer({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})
                return
            self.answer({"id": name, "private": kept.repositories[name], "sha": "0" * 40, "tags": [], "siblings": []})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            if self.headers.get("Authorization") != "Bearer hf_right":
                self.answer({"error": "Invalid username or password."}, 401)
                return
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                taken = name in kept.repositories
                kept.repositories.setdefault(name, asked.get("visibility") == "private")
                self.answer({"url": f"{kept.url}/datasets/{name}"}, 409 if taken else 200)
                return
            if self.path == "/api/validate-yaml":  # of the card
                self.answer({"errors": [], "warnings": []})
                return
            name = "/".join(self.path.split("/")[3:5])
            if "/preupload/" in self.path:
                files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
                self.answer({"files": [{**file, "shouldIgnore": False} for file in files]})
            elif "/commit/" in self.path:
                for line in map(json.loads, body.decode().splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        kept.files.setdefault(name, {})[line["value"]["path"]] = content
                self.answer({"commitUrl": f"{kept.url}/{name}", "commitOid": "1" * 40, "success": True})
            else:
                self.answer({"error": self.path}, 404)

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

    with serve(Handler) as kept.url:
        yield kept

"""A webhook on loopback: what it receives, and that one which fails costs a warning and a bounded time."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mapjob.cli.run import run as run_command
from mapjob.config.load import parse_config
from mapjob.errors import NOT_PROMOTED, ConfigError, IncompleteError, InputError
from mapjob.job import notify
from mapjob.job.notify import Notifier
from mapjob.job.submit import submit
from tests.json_server import JsonHandler, serve

MANIFEST: dict[str, Any] = {
    "run_id": "map-0123456789abcdef",
    "name": "nightly <!channel>",
    "note": "from https://me:secret@host/x",
    "config": {"output": {"path": "/data/nightly"}},
    "counts": {"rows": 6_000, "selected": 2_400},
    "measures": {"overlap": 0.9},
    "checks": [],
    "promoted": True,
}
FAILED = {"check": "dropped", "value": 0.3, "limit": 0.1, "why": "dropped is 30%, at most 10%"}


@contextmanager
def webhook(status: int = 200, headers: dict[str, str] | None = None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(URL, the objects it has received)."""
    received: list[dict[str, Any]] = []

    class Handler(JsonHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer("ok", status, headers)

    with serve(Handler) as url:
        yield f"{url}/services/T0/B0/secret", received


def test_a_run_that_finished_and_one_that_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with webhook() as (url, received), Notifier(url) as notifier:
        notifier.finish(MANIFEST, 0)
        notifier.finish({**MANIFEST, "promoted": False, "checks": [FAILED], "name": None}, NOT_PROMOTED)
    finished, refused = received
    words = "mapjob nightly &lt;!channel&gt; finished: 2,400 of 6,000 rows selected, promoted (map-0123456789abcdef)"
    assert finished["text"] == words, "nobody is mentioned"
    assert (finished["event"], finished["exit_code"], finished["error"]) == ("finished", 0, None)
    assert finished["run_path"] == "/data/nightly/runs/map-0123456789abcdef"
    assert finished["note"] == "from https://…host/x"
    for name in ("run_id", "name", "counts", "measures", "promoted", "checks"):
        assert finished[name] == MANIFEST[name]
    assert refused["text"].startswith("mapjob run refused: 2,400 of 6,000 rows selected, not promoted; dropped is 30%")
    assert (refused["event"], refused["exit_code"], refused["checks"]) == ("refused", 5, [FAILED])
    assert not caplog.records


@pytest.mark.parametrize(
    ("error", "event", "exit_code"),
    [
        (InputError("40% of the rows are broken", "corpus", "fix it"), "refused", 3),
        (IncompleteError("interrupted by SIGTERM", "this process", "run again"), "failed", 4),
        (ConfigError("the model is gone", "models.policy", "name another"), "failed", 2),
        (RuntimeError("a fault at https://me:secret@host/x"), "failed", 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_a_job_is_told_and_raised(error: Exception, event: str, exit_code: int) -> None:
    with webhook() as (url, received):
        notifier = Notifier(url)
        notifier.name = "nightly"
        with pytest.raises(type(error)), notifier:
            raise error
    (told,) = received
    assert (told["event"], told["exit_code"], told["name"], told["run_id"]) == (event, exit_code, "nightly", None)
    assert str(error).splitlines()[0].replace("me:secret@", "…") in told["error"]
    assert told["text"].startswith(f"mapjob nightly {event}: ")
    assert "\n" not in told["text"]
    assert "\\n" not in told["text"], "the lines of an error are joined, not spelled out"


def test_ctrl_c_is_told_to_nobody() -> None:
    with webhook() as (url, received), pytest.raises(KeyboardInterrupt), Notifier(url):
        raise KeyboardInterrupt
    assert received == []


@pytest.mark.parametrize(("status", "why"), [(500, "it answered 500"), (302, "it answered 302")])
def test_a_webhook_that_answers_otherwise_is_a_warning(status: int, why: str, caplog: pytest.LogCaptureFixture) -> None:
    with webhook() as (other, elsewhere), webhook(status, {"Location": other}) as (url, _), Notifier(url) as notifier:
        notifier.finish(MANIFEST, 0)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert why in record.message
    assert "secret" not in record.message
    assert elsewhere == [], "nothing is sent to where it redirects"


def test_a_webhook_that_is_down_or_slow_is_a_warning_in_bounded_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notify.MOST_S == 10.0
    monkeypatch.setattr(notify, "MOST_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as slow:
        threading.Thread(target=drip, args=(slow,), daemon=True).start()
        port = slow.getsockname()[1]
        start = time.monotonic()
        with Notifier(f"http://127.0.0.1:{port}/secret") as notifier:
            notifier.finish(MANIFEST, 0)
        assert time.monotonic() - start < 3
    with Notifier(f"http://127.0.0.1:{port}/secret") as notifier:
        notifier.finish(MANIFEST, 0)
    no_answer, refused = [record.message for record in caplog.records]
    assert "no answer" in no_answer
    assert "ConnectError" in refused
    assert "secret" not in no_answer + refused


def drip(server: socket.socket) -> None:
    """An answer that never ends, a header at a time."""
    connection, _ = server.accept()
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        try:
            connection.sendall(b"x: y\r\n")
        except OSError:
            return
        time.sleep(0.1)


@pytest.mark.parametrize("given", ["hooks.slack.com/secret", "ftp://host/secret", "http://", "@no such file", ""])
def test_what_is_no_webhook_is_refused_before_the_run(given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_command("no such run.yaml", notify=given)
    assert "--notify" in caught.value.where
    assert "secret" not in str(caught.value)


def test_a_url_may_lie_in_a_file(tmp_path: Path) -> None:
    with webhook() as (url, received):
        (tmp_path / "hook").write_text(f"{url}\n")
        with pytest.raises(ConfigError):
            run_command("no such run.yaml", notify=f"@{tmp_path / 'hook'}")
    assert received[0]["event"] == "failed"
    assert "no such run.yaml" in received[0]["error"]


def test_submit_ships_the_webhook_as_a_file(tmp_path: Path) -> None:
    """The dashboard shows a job's arguments to whoever may look at it."""
    shipped: dict[str, Any] = {}

    class Client:
        def list_jobs(self) -> list[Any]:
            return []

        def submit_job(self, entrypoint: str, runtime_env: dict[str, Any], submission_id: str, **_: float) -> str:
            (sources,) = runtime_env["py_modules"]
            shipped.update(entrypoint=entrypoint, webhook=(Path(sources) / "webhook").read_text())
            return submission_id

    models = {name: {"path": name} for name in ("policy", "reward")}
    config = parse_config({"input": {"path": "in"}, "output": {"path": "out"}, "models": models})
    submit(Client(), config, None, ("--note", "two words"), 0.0, "https://hooks.example/secret")
    assert "/webhook" in shipped["entrypoint"]
    assert shipped["entrypoint"].endswith("--note 'two words'")
    assert "secret" not in shipped["entrypoint"]
    assert shipped["webhook"] == "https://hooks.example/secret"

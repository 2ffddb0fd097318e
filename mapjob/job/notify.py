"""One JSON POST to a webhook when a run has finished, is refused or has failed. Slack shows its `text`."""

import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from mapjob.errors import NOT_PROMOTED, ConfigError, InputError, MapjobError
from mapjob.escaping import first_line, one_line, redact
from mapjob.store.run_folder import Manifest, path_of

log = logging.getLogger(__name__)

MOST_S = 10.0  # that a webhook may hold up the end of a run
LONGEST = 2_000  # characters of a text; Slack shows up to 4,000
SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # else a text could mention a whole channel


class Notifier:
    """A context around a job. Whatever ends the job is posted, but for Ctrl-C; that fails with a warning alone.

    url: of the webhook, or @ and a file that holds it; None: nothing is posted. name: of the run, once it is known.
    Raises ConfigError for what is no URL.
    """

    def __init__(self, url: str | None):
        self._url = None if url is None else read_url(url)
        self.name: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt) or error is None:
            return
        exit_code = error.exit_code if isinstance(error, MapjobError) else 1
        event = "refused" if isinstance(error, InputError) else "failed"
        what = self._hide(str(error) or type(error).__name__)
        self._post(event, f"{event}: {what} (exit code {exit_code})", error=what, exit_code=exit_code)

    def finish(self, manifest: Manifest, exit_code: int) -> None:
        """Post what became of a run that is committed."""
        counts, checks = manifest["counts"], manifest["checks"]
        event = "refused" if exit_code == NOT_PROMOTED else "finished"
        words = f"{event}: {counts['selected']:,} of {counts['rows']:,} rows selected, "
        words += "promoted" if manifest["promoted"] else "not promoted"
        words += "".join(f"; {check['why']}" for check in checks) + f" ({manifest['run_id']})"
        self.name = manifest["name"]
        numbers = {name: manifest[name] for name in ("run_id", "note", "counts", "measures", "promoted", "checks")}
        self._post(event, words, **numbers, run_path=path_of(manifest), exit_code=exit_code)

    def _post(self, event: str, words: str, **values: Any) -> None:
        if self._url is None:
            return
        lines = "; ".join(line.strip() for line in f"mapjob {self.name or 'run'} {words}".splitlines())
        text = one_line(self._hide(lines))[:LONGEST].translate(SLACK)
        keys = ("run_id", "run_path", "note", "counts", "measures", "promoted", "checks", "error")
        body = {"text": text, "event": event, "name": self.name, **dict.fromkeys(keys), **values}
        body = {key: self._hide(value) if isinstance(value, str) else value for key, value in body.items()}
        failed: list[str] = ["no answer"]
        # A thread that is left behind: no timeout of the client's bounds the whole of a slow answer.
        thread = threading.Thread(target=self._send, args=(body, failed), daemon=True)
        thread.start()
        thread.join(MOST_S)
        if failed:
            log.warning(f"--notify: the webhook was not reached ({failed[-1]}); the run is as it is")

    def _send(self, body: dict[str, Any], failed: list[str]) -> None:
        try:
            answer = httpx2.post(self._url, json=body, timeout=MOST_S, follow_redirects=False)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            failed.append(f"{type(error).__name__}: {self._hide(first_line(error))}")
            return
        if answer.is_success:
            failed.clear()
        else:
            failed.append(f"it answered {answer.status_code}")

    def _hide(self, text: str) -> str:
        """A message without secrets, of which the webhook's URL is one."""
        return redact(text.replace(self._url, "…") if self._url else text)


def read_url(given: str) -> str:
    """A webhook's URL as --notify names it. Raises ConfigError, which does not show the URL."""
    where, do = "--notify", "give the https:// URL of a webhook, or @ and a file that holds it"
    url = given
    if given.startswith("@"):
        try:
            url = Path(given[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigError("the file of the webhook's URL cannot be read", f"{where} {given}", do) from None
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        raise ConfigError("this is not a URL", where, do) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError("this is not the URL of a webhook", where, do)
    return url

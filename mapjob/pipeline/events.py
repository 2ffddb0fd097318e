"""The log of events: one JSON object a line, for whoever follows a run by program."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mapjob.errors import ConfigError


class Events:
    """Appends to a file on this machine; without a path, nothing is written."""

    def __init__(self, path: str | None = None):
        self._path = path

    def add(self, event: str, **values: Any) -> None:
        """Append `{"at": ..., "event": event, **values}`. Raises ConfigError where the file cannot be written."""
        if self._path is None:
            return
        line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **values})
        try:
            with Path(self._path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            what = f"the log of events cannot be written: {error.strerror}"
            raise ConfigError(what, self._path, "give another path, or leave --events out") from error

"""`.ci/audit` with other programs in the place of curl and pip-audit: a finding fails, and a skip says so."""

import os
import subprocess
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / ".ci" / "audit"


@pytest.mark.parametrize(
    ("curl", "pip_audit", "code", "skipped"),
    [
        ("exit 0", "exit 0", 0, False),
        ("exit 0", "echo Found 1 known vulnerability; exit 1", 1, False),
        ("exit 6", "echo Found 1 known vulnerability; exit 1", 0, True),
    ],
)
def test_a_finding_is_never_hidden(tmp_path: Path, curl: str, pip_audit: str, code: int, skipped: bool) -> None:
    for name, body in {"curl": curl, "pip-audit": pip_audit}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([AUDIT], env=environment, capture_output=True, text=True)
    assert done.returncode == code
    assert ("SKIPPED, no version was checked" in done.stderr) == skipped
    assert ("Found 1" in done.stdout) == (code == 1)

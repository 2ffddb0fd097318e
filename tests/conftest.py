"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MAPJOB_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real preference data and small trained models beside the repository of its developers."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED}: these tests need the developers' shared folder (set MAPJOB_SHARED)")
    return SHARED

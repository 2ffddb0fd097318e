"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest

# One thread a process, set before torch is imported: tiny models gain nothing from more, and on a busy machine threads
# that wait for each other cost minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(os.environ.get("MAPJOB_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real preference data and small trained models beside the repository of its developers."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED}: these tests need the developers' shared folder (set MAPJOB_SHARED)")
    return SHARED

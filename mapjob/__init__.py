"""mapjob: score preference corpora on Ray, rank them globally by alignment potential, publish what to train on."""

import logging
from importlib import import_module
from typing import Any

logging.getLogger("mapjob").addHandler(logging.NullHandler())  # silent where nobody configures logging

__version__ = "0.1.0"
__all__ = ["load_scores", "rank", "run"]
FUNCTIONS = {"load_scores": "load_scores", "rank": "rank_job", "run": "run_job"}


def __getattr__(name: str) -> Any:
    """The functions of mapjob.job.run, imported when they are first asked for."""
    if name in FUNCTIONS:
        return getattr(import_module("mapjob.job.run"), FUNCTIONS[name])
    raise AttributeError(f"module 'mapjob' has no attribute {name!r}")

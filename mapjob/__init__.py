"""mapjob: score preference corpora on Ray, rank them globally by alignment potential, publish what to train on."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["load_scores", "rank", "run"]


def __getattr__(name: str) -> Any:
    """The functions of mapjob.api, imported when they are first asked for."""
    if name in __all__:
        return getattr(import_module("mapjob.api"), name)
    raise AttributeError(f"module 'mapjob' has no attribute {name!r}")

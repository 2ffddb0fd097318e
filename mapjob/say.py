"""What a long command tells a person as it goes, a line at a time."""

from collections.abc import Callable

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Tells nobody: the default of functions that a notebook calls."""

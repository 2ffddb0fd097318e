"""What the settings of every known world have in common: its folder, and what it decides of a run file."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field

from mapjob.config.load import fingerprint
from mapjob.config.run import Section


class WorldSettings(Section):
    """A world is made from its settings alone, and lies in a folder that is named by them."""

    folder: str = Field("validation/world", description="every world has a folder of its own below this one")

    @property
    def path(self) -> Path:
        return Path(self.folder) / fingerprint(self.model_dump(exclude={"folder"}))

    @property
    def run_tree(self) -> dict[str, Any]:
        """The part of a run file that this world decides."""
        models = {name: {"path": str(self.path / name), "dtype": "float32"} for name in ("policy", "reward")}
        return {"input": {"path": str(self.path / "corpus"), "columns": {"group": "group"}}, "models": models}

    @property
    def base(self) -> Self | None:
        """The world of which this one has all but some labels; None: it is made from nothing."""
        return None

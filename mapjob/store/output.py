"""What lies below an output folder: its runs, finished or not, and what no finished run names any more."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mapjob.errors import ConfigError
from mapjob.store.run_folder import RunFolder
from mapjob.store.score_store import ScoreStore
from mapjob.store.storage import SCRATCH, Storage

DAY_S = 86_400.0


@dataclass(frozen=True)
class Unnamed:
    """Something that no manifest names: a name below the output, why, its bytes, and days since it last changed."""

    name: str
    why: str
    num_bytes: int
    age_days: float


class Output:
    """An output folder. Raises ConfigError where nothing was ever written."""

    def __init__(self, url: str):
        self.url = url
        self._storage = Storage(url)
        if not self._storage.names():
            raise ConfigError("there is nothing in this output folder", url, "give the output.path of a run file")

    def runs(self) -> list[RunFolder]:
        """Every run folder, the finished ones first in the order they finished, then the unfinished by name."""
        folders = [RunFolder(self.url, run_id) for run_id in self._storage.names("runs")]
        return sorted(folders, key=lambda run: (run.manifest is None, (run.manifest or {}).get("finished_at", "")))

    def manifests(self) -> list[dict[str, Any]]:
        return [run.manifest for run in self.runs() if run.manifest is not None]

    def unnamed(self) -> Iterator[Unnamed]:
        """Unfinished run folders, column files of no run's models or units, and what killed writers left."""
        manifests = self.manifests()
        finished = {manifest["run_id"] for manifest in manifests}
        for run_id in self._storage.names("runs"):
            if run_id not in finished:
                yield from self._found(f"runs/{run_id}", "a run without a manifest")
        units: dict[str, set[str]] = {}
        for manifest in manifests:
            for fingerprint in manifest["fingerprints"].values():
                units.setdefault(fingerprint, set()).update(manifest["units"])
        store = ScoreStore(self.url)
        for fingerprint in self._storage.names("scores"):
            if fingerprint not in units:
                yield from self._found(f"scores/{fingerprint}", "columns that no run used")
                continue
            for unit_id in sorted(store.done(fingerprint) - units[fingerprint]):
                yield from self._found(f"scores/{fingerprint}/{unit_id}.parquet", "a unit that no run used")
        yield from self._found(SCRATCH, "left by a writer that was killed")

    def remove(self, unnamed: Unnamed) -> None:
        self._storage.remove(unnamed.name)

    def _found(self, name: str, why: str) -> Iterator[Unnamed]:
        files = self._storage.files(name)
        if files:
            newest = max(modified for _, modified in files)
            yield Unnamed(name, why, sum(size for size, _ in files), (time.time() - newest) / DAY_S)

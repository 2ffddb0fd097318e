"""What an output folder holds: its runs, finished or not, and the files that no finished run refers to."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches

from mapjob.errors import ConfigError
from mapjob.store.packs import FOLDER as PACKS
from mapjob.store.packs import Packs
from mapjob.store.run_folder import MANIFEST, FinishedRun, RunFolder, describe_run, promoted_id, read_units, where_it_is
from mapjob.store.score_store import SUFFIX, ScoreStore
from mapjob.store.snapshots import FOLDER, NAME, newest_numbers
from mapjob.store.storage import SCRATCH, Storage

MOST_LISTED = 3
FINISHED = "a finished run"


@dataclass(frozen=True)
class Orphan:
    """A file or folder that no manifest refers to; `name` is below the output, the age is since its last change."""

    name: str
    why: str
    num_bytes: int
    age_days: float


class Output:
    """An output folder. Raises ConfigError if nothing was ever written to it."""

    def __init__(self, url: str):
        self.url = url
        self._storage = Storage(url)
        if not self._storage.names():
            raise ConfigError("there is nothing in this output folder", url, "give the output.path of a run file")

    def list_runs(self) -> tuple[list[FinishedRun], list[str]]:
        """(finished runs in the order they finished, ids of the unfinished by name); reads every manifest once."""
        folders = [RunFolder(self.url, run_id) for run_id in self._storage.names("runs")]
        runs = [(folder, folder.read_manifest()) for folder in folders]
        here = [(folder, where_it_is(manifest, self.url)) for folder, manifest in runs if manifest is not None]
        finished = [FinishedRun(folder, manifest) for folder, manifest in here]
        unfinished = [folder.run_id for folder, manifest in runs if manifest is None]
        return sorted(finished, key=lambda run: run.manifest["finished_at"]), unfinished

    def begun_at(self, run_id: str) -> datetime:
        """When an unfinished run wrote its first file."""
        return datetime.fromtimestamp(min((at for _, at in self._storage.files(f"runs/{run_id}")), default=0.0), UTC)

    def find_run(self, which: str) -> FinishedRun:
        """The finished run with this id, the start of one, a name, or a run folder's path. Raises ConfigError if none
        or several have it, or the path is of another output.
        """
        runs, unfinished = self.list_runs()
        path = which.rstrip("/")
        output, is_path, run_id = path.rpartition("/runs/")
        if is_path and not Storage(output).is_same(self._storage):
            do = f"mapjob promote {output} {run_id}"
            raise ConfigError("this run is of another output", f"{which}, not below {self.url}", do)
        by_name = [run for run in runs if run.manifest.get("name") == which]
        starting = [run for run in runs if run.folder.run_id.startswith(run_id)]
        for matches in ([run for run in starting if run.folder.run_id == run_id], by_name, starting):
            if len(matches) == 1:
                return matches[0]
            if matches:
                listed = ", ".join(describe_run(run.manifest) for run in matches[-MOST_LISTED:])
                raise ConfigError(f"{len(matches)} runs are called {which!r}: {listed}", self.url, "give the id of one")
        if run_id in unfinished:
            raise ConfigError(f"the run {run_id} is not finished", self.url, "run its run file again to complete it")
        known = [name for run in runs for name in (run.folder.run_id, run.manifest.get("name")) if name]
        near = get_close_matches(run_id, known, 1, 0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"no run is called {which!r}{hint}", self.url, "`mapjob status OUTPUT` lists them")

    def orphans(self, runs_older_than: float = math.inf) -> Iterator[Orphan]:
        """Unfinished run folders, column files, packs and converted inputs of no run, and what killed writers left.

        runs_older_than: days; finished runs of that age, and what only they refer to, are orphans too, but for the
        promoted run and the newest. They come first.
        """
        finished, unfinished = self.list_runs()
        kept = {promoted_id(self.url), *(run.folder.run_id for run in finished[-1:])}
        for run in [run for run in finished if run.folder.run_id not in kept]:
            age = (time.time() - datetime.fromisoformat(run.manifest["finished_at"]).timestamp()) / 86_400
            if age >= runs_older_than:
                finished.remove(run)
                size = sum(size for size, _ in self._storage.files(f"runs/{run.folder.run_id}"))
                yield Orphan(f"runs/{run.folder.run_id}", FINISHED, size, age)
        for run_id in unfinished:
            yield from self._orphan(f"runs/{run_id}", "a run without a manifest")
        units: dict[str, set[str]] = {}
        for run in finished:
            ids = read_units(run.manifest)
            for fingerprint in run.manifest["fingerprints"].values():
                units.setdefault(fingerprint, set()).update(ids)
        store, packs = ScoreStore(self.url), Packs(self.url).known
        for fingerprint in self._storage.names("scores"):
            if fingerprint not in units:
                yield from self._orphan(f"scores/{fingerprint}", "columns that no run used")
                continue
            for unit_id in sorted(store.done(fingerprint) - units[fingerprint]):
                yield from self._orphan(f"scores/{fingerprint}/{unit_id}{SUFFIX}", "a unit that no run used")
            for file in self._storage.names(f"scores/{fingerprint}/{PACKS}"):
                pack = packs.get(file.removesuffix(SUFFIX))
                if pack is None or units[fingerprint].isdisjoint(pack.units):
                    yield from self._orphan(f"scores/{fingerprint}/{PACKS}/{file}", "a pack that no run uses")
        converted = {name for run in finished for name in run.manifest["corpus"].get("converted", ())}
        for name in self._storage.names("inputs"):
            if name not in converted:
                yield from self._orphan(f"inputs/{name}", "a converted file that no run used")
        plans = self._storage.names(FOLDER)
        newest = newest_numbers(plans)
        for name in plans:
            match = NAME.fullmatch(name)
            if match is None or int(match[2]) < newest[match[1]]:
                yield from self._orphan(f"{FOLDER}/{name}", "an older list of what is known of the input")
        yield from self._orphan(SCRATCH, "left by a writer that was killed")

    def remove(self, orphan: Orphan) -> None:
        """Of a run the manifest goes first: what is left of a removal that is killed is no run."""
        if orphan.name.startswith("runs/"):
            self._storage.remove(f"{orphan.name}/{MANIFEST}")
        self._storage.remove(orphan.name)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """(files, bytes) of each part of the output, by name."""
        files = {name: self._storage.files(name) for name in self._storage.names()}
        return {name: (len(of), sum(size for size, _ in of)) for name, of in files.items()}

    def _orphan(self, name: str, why: str) -> Iterator[Orphan]:
        files = self._storage.files(name)
        if files:
            newest = max(modified for _, modified in files)
            yield Orphan(name, why, sum(size for size, _ in files), (time.time() - newest) / 86_400)

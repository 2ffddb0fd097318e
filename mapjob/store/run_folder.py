"""A run folder: `selected/`, `errors/`, card and report, and last the manifest, which is the commit."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, NotRequired, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.errors import ConfigError, IncompleteError, MapjobError
from mapjob.store.remote import as_mapjob_error, is_of_content, retry
from mapjob.store.storage import Storage
from mapjob.store.tables import from_parquet, to_parquet

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LATEST = "latest.json"
UNITS = "units.parquet"
RUN_ID = re.compile(r"[\w-]+")
MOST_UNITS = 100_000  # that a manifest lists itself: whoever wants one number of it parses all of it
PROMOTE = "`mapjob status OUTPUT` lists its runs, `mapjob promote OUTPUT RUN` promotes one"
RESTORE = "restore it, or remove the run folder and run again"


class UnitFile(TypedDict):
    """The file of a run folder that lists its units, and the SHA-256 of their ids, one per line."""

    file: str
    sha256: str


class Loss(TypedDict):
    """What `mapjob forget` took from a run: how many of its rows, and how many selected pairs are left."""

    rows: int
    selected: int


class Manifest(TypedDict):
    """manifest.json: what decided a run and what it counted, as plain JSON values."""

    run_id: str
    mapjob: str  # the version that wrote it
    config: dict[str, Any]  # the run file with every default
    corpus: dict[str, Any]
    fingerprints: dict[str, str]  # by name of column family
    units: list[str] | UnitFile  # ids in reading order, or where they are; see `read_units`
    statistics: dict[str, Any]
    models: dict[str, dict[str, Any]]  # by scorer: what decides its scores
    limit: int | None
    name: NotRequired[str | None]
    note: NotRequired[str | None]
    for_use: NotRequired[bool]  # whether the command that made it promotes what it makes
    counts: dict[str, Any]
    measures: NotRequired[dict[str, Any]]  # what checks and history go by
    checks: NotRequired[list[dict[str, Any]]]  # that failed when it was committed
    flags: dict[str, int]
    warnings: list[str]
    spent: dict[str, Any]  # seconds, tokens
    versions: dict[str, str]
    decisions: NotRequired[dict[str, str]]  # hashes of what people decided, by key of the selection
    forgotten: NotRequired[Loss]  # of a run that is no longer whole
    finished_at: NotRequired[str]  # ISO 8601 in UTC, once it is committed


class RunFolder:
    """`<output>/runs/<run id>/`. Without its manifest it is not a run; with it, only `mapjob forget` changes it."""

    def __init__(self, output_url: str, run_id: str):
        self.run_id = run_id
        self._output = Storage(output_url)
        self._storage = self._output.below("runs", run_id)
        self.url = self._storage.url

    def read_manifest(self) -> Manifest | None:
        """The manifest of a finished run, else None."""
        data = self._storage.read(MANIFEST)
        return None if data is None else json.loads(data)

    def replace(self, name: str, data: bytes) -> None:
        """Write a file over the one that is there. For `mapjob forget`."""
        self._storage.replace(name, data)

    def put_table(self, name: str, table: pa.Table) -> None:
        """Write `name` once. If an earlier, unfinished attempt left a table there, it must be equal, and is adopted."""
        self.put_file(name, to_parquet(table), lambda stored: _holds(stored, table))

    def put_file(self, name: str, data: bytes, is_equal: Callable[[bytes], bool] = lambda _: False) -> None:
        """Write `name` once. What an earlier, unfinished attempt left there must be the same bytes, or equal."""
        if self._storage.create(name, data):
            return
        stored = self._storage.read(name)
        if stored != data and not (stored and is_equal(stored)):
            raise MapjobError(
                "an unfinished run left another file here than this run would write",
                f"{self.url}/{name}",
                "remove this run folder (it has no manifest) and run again",
            )

    def put_text(self, name: str, text: str) -> None:
        """Write `name` once. The text of an unfinished attempt is kept: it differs only in the time that was spent."""
        self._storage.create(name, text.encode())

    def put_units(self, ids: list[str]) -> list[str] | UnitFile:
        """What the manifest says of these units. Of more than MOST_UNITS it names the file that is written here."""
        if len(ids) <= MOST_UNITS:
            return ids
        self.put_table(UNITS, pa.table({"unit": ids}))
        return _name_units(ids)

    def check_holds(self, num_files: Mapping[str, int]) -> None:
        """Raises IncompleteError if tables that were written, so many per folder, are gone since."""
        for folder, number in num_files.items():
            if len(self.tables(folder)) < number:
                do = "see who removes them, then run the same command again: it resumes from what is left"
                raise IncompleteError("files of this run were removed while it ran", f"{self.url}/{folder}", do)

    def commit(self, manifest: Manifest) -> Manifest:
        """Write the manifest, once. Returns the manifest that is stored."""
        text = json.dumps({**manifest, "finished_at": datetime.now(UTC).isoformat(timespec="microseconds")}, indent=2)
        is_first = self._storage.create(MANIFEST, f"{text}\n".encode())
        return json.loads(text if is_first else self.read(MANIFEST))

    def promote(self) -> None:
        """Let latest.json name this run, which is finished: the one that whoever gives the output folder takes."""
        latest = {"run_id": self.run_id, "run_path": f"runs/{self.run_id}"}
        self._output.replace(LATEST, (json.dumps(latest) + "\n").encode())

    def tables(self, folder: str) -> list[str]:
        """Names of the Parquet files of `selected` or `errors`, in order."""
        return [f"{folder}/{name}" for name in self._storage.names(folder) if name.endswith(".parquet")]

    def files(self) -> list[str]:
        """Names of all files of the run, `selected/train-….parquet` and so on."""
        names = self._storage.names()
        folders = [name for name in names if "." not in name]
        below = [f"{folder}/{name}" for folder in folders for name in self._storage.names(folder)]
        return [name for name in names if name not in folders] + below

    def read(self, name: str) -> bytes:
        """A whole file of the run. Raises MapjobError if it is missing."""
        data = self._storage.read(name)
        if data is None:
            raise MapjobError("a file of the run is missing", f"{self.url}/{name}", RESTORE)
        return data

    def open(self, name: str) -> BinaryIO:
        """A file of the run, to read parts of it."""
        return self._storage.fs.open(self._storage.path(name), "rb")

    def read_metadata(self, name: str) -> dict[bytes, bytes]:
        """The schema's metadata of a table, from its footer."""

        def read() -> dict[bytes, bytes]:
            with self.open(name) as file:
                return pq.read_schema(file).metadata or {}

        try:
            return retry(read)
        except (pa.ArrowException, OSError) as error:
            if not is_of_content(error):
                raise as_mapjob_error(error, f"{self.url}/{name}", "read") from error
            raise MapjobError(f"a file of the run is damaged: {error}", f"{self.url}/{name}", RESTORE) from None

    def read_column(self, name: str, column: str) -> pa.ChunkedArray:
        """A column of a table; of the others no byte is asked for."""
        try:
            with self.open(name) as file:
                return pq.ParquetFile(file, page_checksum_verification=True).read([column], use_threads=False)[column]
        except (pa.ArrowException, OSError) as error:
            raise MapjobError(f"a file of the run is damaged: {error}", f"{self.url}/{name}", RESTORE) from None

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return from_parquet(self.read(name), columns)
        except (pa.ArrowException, OSError) as error:
            raise MapjobError(f"a file of the run is damaged: {error}", f"{self.url}/{name}", RESTORE) from None


def _name_units(ids: list[str]) -> UnitFile:
    return {"file": UNITS, "sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest()}


def _holds(data: bytes, table: pa.Table) -> bool:
    """Another version of pyarrow may write the same table as other bytes."""
    try:
        return from_parquet(data).equals(table)
    except (pa.ArrowException, OSError):
        return False


@dataclass(frozen=True)
class FinishedRun:
    """A run folder and its manifest, which was read once."""

    folder: RunFolder
    manifest: Manifest

    @classmethod
    def of(cls, manifest: Manifest) -> "FinishedRun":
        return cls(RunFolder(manifest["config"]["output"]["path"], manifest["run_id"]), manifest)


def promoted_id(output_url: str) -> str | None:
    """Id of the run that latest.json names, which may be gone; None if there is no latest.json."""
    data = Storage(output_url).read(LATEST)
    if data is None:
        return None
    try:
        run_id = json.loads(data)["run_id"]
        if not RUN_ID.fullmatch(run_id):
            raise ValueError(run_id)
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{LATEST} is damaged", f"{output_url}/{LATEST}", PROMOTE) from None
    return run_id


def find_promoted(output_url: str) -> str | None:
    """As `promoted_id`, for whoever can do without: None, with a warning, if latest.json is damaged."""
    try:
        return promoted_id(output_url)
    except ConfigError as error:
        log.warning(f"{error.what}: {error.where}")
        return None


def open_run(path: str) -> FinishedRun:
    """The finished run in a run folder; of an output folder the promoted one. Raises ConfigError if there is none."""
    path = path.rstrip("/") if "://" in path else os.path.abspath(path)
    if (run_id := promoted_id(path)) is not None:
        manifest = RunFolder(path, run_id).read_manifest()
        if manifest is None:
            raise ConfigError(f"the promoted run {run_id} is gone", f"{path}/{LATEST}", PROMOTE)
        log.info(f"the promoted run of {path}: {describe_run(manifest)}")
        return _warn_of_loss(FinishedRun(RunFolder(path, run_id), where_it_is(manifest, path)))
    output, _, run_id = path.rpartition("/runs/")
    folder = RunFolder(output, run_id) if output else None
    manifest = folder and folder.read_manifest()
    if folder is None or manifest is None:
        if Storage(path).names("runs"):
            raise ConfigError("no run of this output is promoted", path, PROMOTE)
        do = "give the run folder that `mapjob run` printed, or the output folder for its promoted run"
        raise ConfigError("there is no finished run here (a run folder holds manifest.json)", path, do)
    return _warn_of_loss(FinishedRun(folder, where_it_is(manifest, output)))


def _warn_of_loss(run: FinishedRun) -> FinishedRun:
    if loss := describe_loss(run.manifest):
        log.warning(f"{loss}: {run.folder.run_id}")
    return run


def describe_run(manifest: Manifest) -> str:
    """A run's id, its name if it has one, and when it finished."""
    name = f"{manifest['name']}, " if manifest.get("name") else ""
    return f"{manifest['run_id']} ({name}finished {manifest['finished_at'][:16].replace('T', ' ')} UTC)"


def describe_loss(manifest: Manifest) -> str:
    """For people: what was taken from a run; empty if it is whole."""
    if "forgotten" not in manifest:
        return ""
    rows, selected = manifest["forgotten"]["rows"], manifest["forgotten"]["selected"]
    return f"{rows:,} rows of this run were forgotten, {selected:,} selected pairs are left"


def where_it_is(manifest: Manifest, output_url: str) -> Manifest:
    """The manifest of a run in this output, which may have been moved here: its config says where it is now."""
    return {**manifest, "config": {**manifest["config"], "output": {"path": output_url}}}


def path_of(manifest: Manifest) -> str:
    """Where a finished run is."""
    return FinishedRun.of(manifest).folder.url


def read_units(manifest: Manifest) -> list[str]:
    """Ids of the units of a finished run, in reading order. Raises MapjobError if their file is not the one named."""
    units = manifest["units"]
    if isinstance(units, list):
        return units
    folder = FinishedRun.of(manifest).folder
    ids = folder.read_table(units["file"])["unit"].to_pylist()
    if _name_units(ids) != units:
        what = "this file lists other units than the manifest names"
        raise MapjobError(what, f"{folder.url}/{units['file']}", RESTORE)
    return ids


def has_units(manifest: Manifest, ids: list[str]) -> bool:
    """Whether a finished run has just these units, in this order; no list is read."""
    units = manifest["units"]
    return units == (ids if isinstance(units, list) else _name_units(ids))

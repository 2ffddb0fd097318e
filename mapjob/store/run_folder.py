"""A run folder: `selected/`, `errors/`, card and report, and last the manifest, which is the commit."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO

import pyarrow as pa

from mapjob.errors import ConfigError, MapjobError
from mapjob.store.storage import Storage
from mapjob.store.tables import from_parquet, to_parquet

MANIFEST = "manifest.json"
CARD = "README.md"
REPORT = "report.html"
REPORT_DATA = "report.json"


class RunFolder:
    """`<output>/runs/<run id>/`. Without its manifest it is not a run; with it, it never changes again."""

    def __init__(self, output_url: str, run_id: str):
        self.run_id = run_id
        self._output = Storage(output_url)
        self._storage = self._output.below("runs", run_id)
        self.url = self._storage.url

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The manifest of a finished run, else None."""
        data = self._storage.read(MANIFEST)
        return None if data is None else json.loads(data)

    def put_table(self, name: str, table: pa.Table) -> None:
        """Write `name` once. What an earlier, unfinished attempt left there must be the same table, and is adopted."""
        self.put_file(name, to_parquet(table), lambda stands: _holds(stands, table))

    def put_file(self, name: str, data: bytes, is_equal: Callable[[bytes], bool] = lambda _: False) -> None:
        """Write `name` once. What an earlier, unfinished attempt left there must be the same bytes, or equal."""
        if self._storage.create(name, data):
            return
        stands = self._storage.read(name)
        if stands != data and not (stands and is_equal(stands)):
            raise MapjobError(
                "an unfinished run left another file here than this run would write",
                f"{self.url}/{name}",
                "remove this run folder (it has no manifest) and run again",
            )

    def put_card(self, text: str) -> None:
        self._storage.create(CARD, text.encode())

    def put_report_data(self, drawn_from: dict[str, Any]) -> None:
        """What the report is drawn from. That of an unfinished attempt may stand, which differs in nothing but the time
        that was spent; the report is then drawn from that.
        """
        self._storage.create(REPORT_DATA, (json.dumps(drawn_from) + "\n").encode())

    @property
    def report_data(self) -> dict[str, Any] | None:
        """What the report is drawn from; None in older runs."""
        data = self._storage.read(REPORT_DATA)
        return None if data is None else json.loads(data)

    def put_report(self, text: str) -> None:
        self._storage.create(REPORT, text.encode())

    def commit(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Write the manifest, once, and point latest.json here. Returns the manifest that stands."""
        manifest = {**manifest, "finished_at": datetime.now(UTC).isoformat(timespec="microseconds")}
        self._storage.create(MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        self.point_latest()
        stands = self.manifest
        assert stands is not None
        return stands

    def point_latest(self) -> None:
        """Point latest.json here, unless it already names a run that finished later."""
        mine, newest = self.manifest, self._newest()
        if mine and newest and newest["finished_at"] > mine["finished_at"]:
            return
        latest = {"run_id": self.run_id, "run_path": f"runs/{self.run_id}"}
        self._output.replace("latest.json", (json.dumps(latest) + "\n").encode())

    def _newest(self) -> dict[str, Any] | None:
        data = self._output.read("latest.json")
        return RunFolder(self._output.url, json.loads(data)["run_id"]).manifest if data else None

    def tables(self, folder: str) -> list[str]:
        """Names of the Parquet files of `selected` or `errors`, in order."""
        return [f"{folder}/{name}" for name in self._storage.names(folder) if name.endswith(".parquet")]

    def files(self) -> list[str]:
        """Names of all files of the run, `selected/train-….parquet` and so on."""
        names = self._storage.names()
        below = {name: self._storage.names(name) for name in names if "." not in name}
        return [name for name in names if name not in below] + [f"{n}/{f}" for n, own in below.items() for f in own]

    def read(self, name: str) -> bytes:
        """A whole file of the run. Raises MapjobError where it is missing."""
        data = self._storage.read(name)
        if data is None:
            raise MapjobError("a file of the run is missing", f"{self.url}/{name}", "run the same command again")
        return data

    def open(self, name: str) -> BinaryIO:
        """A file of the run, to read parts of it."""
        return self._storage.fs.open(self._storage.path(name), "rb")

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return from_parquet(self.read(name), columns)
        except (pa.ArrowException, OSError) as error:
            where = f"{self.url}/{name}"
            raise MapjobError(
                f"a file of the run is damaged: {error}", where, "restore it, or remove the run folder and run again"
            ) from None


def _holds(data: bytes, table: pa.Table) -> bool:
    """Another version of pyarrow may write the same table as other bytes."""
    try:
        return from_parquet(data).equals(table)
    except (pa.ArrowException, OSError):
        return False


def open_run(path: str) -> RunFolder:
    """The finished run at a path (or the newest one, for an output folder). Raises ConfigError when there is none."""
    path = path.rstrip("/") if "://" in path else os.path.abspath(path)
    latest = Storage(path).read("latest.json")
    if latest is not None:
        path = f"{path}/{json.loads(latest)['run_path']}"
    output, _, run_id = path.rpartition("/runs/")
    run = RunFolder(output, run_id) if output else None
    if run is None or run.manifest is None:
        raise ConfigError(
            "there is no finished run here (a run folder holds manifest.json)",
            path,
            "give the run folder that `mapjob run` printed, or the output folder for its newest run",
        )
    return run


def path_of(manifest: dict[str, Any]) -> str:
    """Where a finished run is."""
    return RunFolder(manifest["config"]["output"]["path"], manifest["run_id"]).url

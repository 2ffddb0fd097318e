"""The score store: one folder a scorer fingerprint, one Parquet file a unit, each written once and never changed."""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from mapjob.errors import MapjobError
from mapjob.store.storage import Storage
from mapjob.store.tables import from_parquet, to_parquet

READ_THREADS = 16
SUFFIX = ".parquet"


class ScoreStore:
    """Column files `scores/<fingerprint>/<unit>.parquet` below an output URL. A unit is done when its file exists.

    content_names, for a store that cannot put create-only: a file is `<unit>-<hash of its bytes>.parquet`, over which
    nothing but the same bytes can be put. Where writers left several files of a unit, the first by name is read.
    """

    def __init__(self, output_url: str, content_names: bool = False):
        self.url = output_url
        self._content_names = content_names
        self._storage = Storage(output_url, conditional=not content_names).below("scores")

    def declare(self, fingerprint: str, description: dict[str, Any]) -> None:
        """Write in the clear, once, what a fingerprint stands for."""
        text = json.dumps(description, indent=2, sort_keys=True) + "\n"
        self._storage.create(f"{fingerprint}/scorer.json", text.encode())

    def files(self, fingerprint: str) -> dict[str, list[str]]:
        """Unit id -> names of its files in `scores/<fingerprint>/`, sorted; several only under content_names."""
        files: dict[str, list[str]] = {}
        for name in self._storage.names(fingerprint):
            unit_id, _, content = name.removesuffix(SUFFIX).partition("-")
            if name.endswith(SUFFIX) and (self._content_names or not content):
                files.setdefault(unit_id, []).append(name)
        return files

    def done(self, fingerprint: str) -> set[str]:
        """Ids of the units that have their column file."""
        return set(self.files(fingerprint))

    def commit(self, fingerprint: str, unit_id: str, table: pa.Table) -> bool:
        """Put a unit's columns, once. Returns False when another writer was first; its file is checked and adopted."""
        table = table.replace_schema_metadata({"mapjob.scorer": fingerprint, "mapjob.unit": unit_id})
        data = to_parquet(table)
        content = f"-{hashlib.sha256(data).hexdigest()[:16]}" if self._content_names else ""
        if self._storage.create(f"{fingerprint}/{unit_id}{content}{SUFFIX}", data):
            return True
        if self.read(fingerprint, unit_id).num_rows != table.num_rows:
            raise _disagreement(f"{self._storage.url}/{fingerprint}/{unit_id}{SUFFIX}")
        return False

    def read(self, fingerprint: str, unit_id: str) -> pa.Table:
        """A unit's columns, row-aligned with the unit. Raises MapjobError when the file is missing or not its own."""
        (table,) = self.read_all(fingerprint, [unit_id])
        return table

    def read_all(self, fingerprint: str, unit_ids: Iterable[str]) -> Iterator[pa.Table]:
        """The columns of many units, in the order asked for; raises as `read` does. A few are read ahead, no more."""
        files = self.files(fingerprint) if self._content_names else {}
        with ThreadPoolExecutor(READ_THREADS) as threads:
            ahead: deque[Future[pa.Table]] = deque()
            for unit_id in unit_ids:
                ahead.append(threads.submit(self._read_unit, fingerprint, unit_id, files.get(unit_id)))
                if len(ahead) == READ_THREADS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _read_unit(self, fingerprint: str, unit_id: str, names: list[str] | None) -> pa.Table:
        tables = [self._read_file(fingerprint, unit_id, name) for name in names or [f"{unit_id}{SUFFIX}"]]
        if any(table.num_rows != tables[0].num_rows for table in tables):
            raise _disagreement(f"{self._storage.url}/{fingerprint}/{unit_id}-*{SUFFIX}")
        return tables[0]

    def _read_file(self, fingerprint: str, unit_id: str, name: str) -> pa.Table:
        data = self._storage.read(f"{fingerprint}/{name}")
        where = f"{self._storage.url}/{fingerprint}/{name}"
        if data is None:
            raise MapjobError("a column file is missing", where, "`mapjob run` with the same run file scores it again")
        try:
            table = from_parquet(data)
        except (pa.ArrowException, OSError) as error:
            raise MapjobError(f"a column file is damaged: {error}", where, "remove it and run again") from None
        metadata = table.schema.metadata or {}
        if metadata.get(b"mapjob.scorer") != fingerprint.encode() or metadata.get(b"mapjob.unit") != unit_id.encode():
            raise MapjobError("a column file belongs to another unit or scorer", where, "remove it and run again")
        return table.replace_schema_metadata(None)


def _disagreement(where: str) -> MapjobError:
    return MapjobError(
        "two writers disagree about the rows of one unit",
        where,
        "the corpus changed while it was scored; remove this file and run again",
    )

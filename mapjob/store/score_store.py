"""The score store: one folder per scorer fingerprint, one Parquet file per unit, written once and never changed."""

import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from mapjob.errors import MapjobError
from mapjob.store.storage import Storage
from mapjob.store.tables import from_parquet, numbers_to_parquet

READ_THREADS = 16
SUFFIX = ".parquet"


class ScoreStore:
    """Column files `scores/<fingerprint>/<unit>.parquet` below an output URL. A unit is done when its file exists."""

    def __init__(self, output_url: str):
        self.url = output_url
        self._storage = Storage(output_url).below("scores")

    def declare(self, fingerprint: str, description: dict[str, Any]) -> None:
        """Write in the clear, once, what a fingerprint covers."""
        text = json.dumps(description, indent=2, sort_keys=True) + "\n"
        self._storage.create(f"{fingerprint}/scorer.json", text.encode())

    def done(self, fingerprint: str) -> set[str]:
        """Ids of the units that have their column file."""
        names = self._storage.names(fingerprint)
        return {name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)}

    def commit(self, fingerprint: str, unit_id: str, table: pa.Table) -> bool:
        """Put a unit's columns, once. Returns False if another writer was first; its file is checked and adopted."""
        table = table.replace_schema_metadata({"mapjob.scorer": fingerprint, "mapjob.unit": unit_id})
        name = _file(fingerprint, unit_id)
        if self._storage.create(name, numbers_to_parquet(table)):
            return True
        if self.read(fingerprint, unit_id).num_rows != table.num_rows:
            do = "the corpus changed while it was scored; remove this file and run again"
            raise MapjobError("two writers disagree about the rows of one unit", f"{self._storage.url}/{name}", do)
        return False

    def read(self, fingerprint: str, unit_id: str) -> pa.Table:
        """A unit's columns, row-aligned with the unit. Raises MapjobError if the file is missing or not its own."""
        return self._decode(self._storage.read(_file(fingerprint, unit_id)), fingerprint, unit_id)

    def _decode(self, data: bytes | None, fingerprint: str, unit_id: str, without: Collection[str] = ()) -> pa.Table:
        where = f"{self._storage.url}/{_file(fingerprint, unit_id)}"
        if data is None:
            raise MapjobError("a column file is missing", where, "`mapjob run` with the same run file scores it again")
        try:
            table = from_parquet(data, without=without)
        except (pa.ArrowException, OSError) as error:
            raise MapjobError(f"a column file is damaged: {error}", where, "remove it and run again") from None
        metadata = table.schema.metadata or {}
        if metadata.get(b"mapjob.scorer") != fingerprint.encode() or metadata.get(b"mapjob.unit") != unit_id.encode():
            raise MapjobError("a column file belongs to another unit or scorer", where, "remove it and run again")
        return table.replace_schema_metadata(None)

    def read_all(self, fingerprint: str, unit_ids: Iterable[str], without: Collection[str] = ()) -> Iterator[pa.Table]:
        """The columns of many units, in the order asked for; raises as `read` does. At most 16 are read ahead.

        without: columns that are not decoded.
        """
        threads = ThreadPoolExecutor(READ_THREADS)
        try:
            ahead: deque[tuple[str, Future[bytes | None]]] = deque()

            def first() -> pa.Table:
                # Decoded here: threads that decode wait for each other in Python most of the time.
                unit_id, data = ahead.popleft()
                return self._decode(data.result(), fingerprint, unit_id, without)

            for unit_id in unit_ids:
                ahead.append((unit_id, threads.submit(self._storage.read, _file(fingerprint, unit_id))))
                if len(ahead) == READ_THREADS:
                    yield first()
            while ahead:
                yield first()
        finally:
            # Without a join: what an error leaves behind is closed by the garbage collector, at times in the middle of
            # the start of another thread, whose lock a join would wait for, for ever.
            threads.shutdown(wait=False, cancel_futures=True)


def _file(fingerprint: str, unit_id: str) -> str:
    return f"{fingerprint}/{unit_id}{SUFFIX}"

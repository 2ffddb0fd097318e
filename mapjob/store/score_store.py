"""The score store: one folder per scorer fingerprint, one Parquet file per unit, written once and never changed."""

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
        name = f"{fingerprint}/{unit_id}{SUFFIX}"
        if self._storage.create(name, to_parquet(table)):
            return True
        if self.read(fingerprint, unit_id).num_rows != table.num_rows:
            do = "the corpus changed while it was scored; remove this file and run again"
            raise MapjobError("two writers disagree about the rows of one unit", f"{self._storage.url}/{name}", do)
        return False

    def read(self, fingerprint: str, unit_id: str) -> pa.Table:
        """A unit's columns, row-aligned with the unit. Raises MapjobError if the file is missing or not its own."""
        name = f"{fingerprint}/{unit_id}{SUFFIX}"
        data, where = self._storage.read(name), f"{self._storage.url}/{name}"
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

    def read_all(self, fingerprint: str, unit_ids: Iterable[str]) -> Iterator[pa.Table]:
        """The columns of many units, in the order asked for; raises as `read` does. At most 16 are read ahead."""
        threads = ThreadPoolExecutor(READ_THREADS)
        try:
            ahead: deque[Future[pa.Table]] = deque()
            for unit_id in unit_ids:
                ahead.append(threads.submit(self.read, fingerprint, unit_id))
                if len(ahead) == READ_THREADS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            # Without a join: what an error leaves behind is closed by the garbage collector, at times in the middle of
            # the start of another thread, whose lock a join would wait for, for ever.
            threads.shutdown(wait=False, cancel_futures=True)

"""A folder of generated rows: one file per unit, put once and whole, and generation.json, which is put last."""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from mapjob.errors import MapjobError
from mapjob.lab.selfplay.tasks import UnitResult
from mapjob.store.storage import Storage
from mapjob.store.tables import from_parquet, to_parquet

MANIFEST = "generation.json"
COUNTS = b"mapjob.counts"
Kind = Literal["candidates", "prompts"]


class GeneratedFolder:
    """`<output>/<kind>/<name>/`. The name covers model, sampling and prompts, so a folder never mixes two of them.

    A unit without any rows still has its file, so that it is not done again.
    """

    def __init__(self, output_url: str, kind: Kind, name: str):
        self.name = name
        self._storage = Storage(output_url).below(kind, name)
        self.url = self._storage.url

    @property
    def manifest(self) -> dict[str, Any] | None:
        """generation.json of a finished folder, else None."""
        data = self._storage.read(MANIFEST)
        return None if data is None else json.loads(data)

    def unit_ids(self) -> set[str]:
        """Ids of the units that have a file."""
        return {name.removesuffix(".parquet") for name in self._storage.names() if name.endswith(".parquet")}

    def commit(self, unit_id: str, result: UnitResult) -> None:
        """Put a unit's rows, once; if another writer was first, its rows stay. What is left out is put before."""
        counts = json.dumps(dict(sorted(result.counts.items())))
        if result.refused:
            columns = zip(("prompt_id", "reason", "detail"), zip(*result.refused))
            refused = pa.table({name: pa.array(values, pa.string()) for name, values in columns})
            # Hidden from readers of a corpus, who read every Parquet file that they find.
            self._storage.create(f"_left_out/{unit_id}.parquet", to_parquet(refused))
        self._storage.create(f"{unit_id}.parquet", to_parquet(result.table.replace_schema_metadata({COUNTS: counts})))

    def count(self, unit_ids: list[str]) -> dict[str, Any]:
        """What the units hold: `rows`, `left_out` by reason, and the counts of the task. Raises if one is missing."""
        counts, left_out = Counter[str](), Counter[str]()
        for unit_id in unit_ids:
            table = self._read(f"{unit_id}.parquet")
            counts["rows"] += len(table)
            counts.update(json.loads((table.schema.metadata or {})[COUNTS]))
            if self._storage.read(f"_left_out/{unit_id}.parquet") is not None:
                left_out.update(self._read(f"_left_out/{unit_id}.parquet")["reason"].to_pylist())
        return {"rows": 0, **counts, "left_out": dict(left_out.most_common())}

    def _read(self, name: str) -> pa.Table:
        data, where = self._storage.read(name), f"{self.url}/{name}"
        if data is None:
            raise MapjobError("a file is missing", where, "run the same command again")
        try:
            return from_parquet(data)
        except (pa.ArrowException, OSError) as error:
            do = "remove the folder and run the same command again"
            raise MapjobError(f"a file is damaged: {error}", where, do) from None

    def finish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Put generation.json, once. Returns the manifest that is stored."""
        manifest = {**manifest, "finished_at": datetime.now(UTC).isoformat(timespec="microseconds")}
        self._storage.create(MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        stored = self.manifest
        assert stored is not None
        return stored

"""A folder of generated rows: a file a unit, each put once and whole, and generation.json, which is put last."""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from mapjob.errors import ConfigError, MapjobError
from mapjob.lab.selfplay.tasks import Done
from mapjob.store.storage import Storage
from mapjob.store.tables import from_parquet, to_parquet

MANIFEST = "generation.json"
COUNTS = b"mapjob.counts"
Kind = Literal["candidates", "prompts"]


class GeneratedFolder:
    """`<output>/<kind>/<name>/`. The name covers model, sampling and prompts, so that no two of them ever meet here.

    A unit without a single row left still has its file: that it was done is not asked twice.
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

    def done(self) -> set[str]:
        """Ids of the units that have their file."""
        return {name.removesuffix(".parquet") for name in self._storage.names() if name.endswith(".parquet")}

    def commit(self, unit_id: str, done: Done) -> None:
        """Put a unit's rows, once; where another writer was first, its rows stand. What is left out is put before."""
        counts = json.dumps(dict(sorted(done.counts.items())))
        if done.refused:
            columns = zip(("prompt_id", "reason", "detail"), zip(*done.refused))
            refused = pa.table({name: pa.array(values, pa.string()) for name, values in columns})
            # Hidden from readers of a corpus, who take every Parquet file that they find.
            self._storage.create(f"_left_out/{unit_id}.parquet", to_parquet(refused))
        self._storage.create(f"{unit_id}.parquet", to_parquet(done.table.replace_schema_metadata({COUNTS: counts})))

    def counted(self, unit_ids: list[str]) -> dict[str, Any]:
        """What the units hold: `rows`, `left_out` by reason, and the tasks' own counts. Raises where one is missing."""
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
        """Put generation.json, once. Returns what stands."""
        manifest = {**manifest, "finished_at": datetime.now(UTC).isoformat(timespec="microseconds")}
        self._storage.create(MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        stands = self.manifest
        assert stands is not None
        return stands


def check_output(output_url: str, content_names: bool) -> None:
    """Raises ConfigError for a store where one writer could overwrite another."""
    if content_names:
        do = "leave output.unconditional away, and give a store with conditional puts"
        raise ConfigError("what is generated is only ever put create-only", f"output.path: {output_url}", do)
    Storage(output_url).check_conditions()

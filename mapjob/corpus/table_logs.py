"""Tables that keep a log (Delta, Iceberg, Hudi) are refused: the log says which rows of their files are live."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import fsspec

from mapjob.errors import InputError

LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
LEVELS_UP = 4  # from a file to the folder of the table that it is of: partitions are folders too
THREADS = 16


def refuse_tables(names: Iterable[str], path: str) -> None:
    """Raises InputError if the names below a path tell that it is such a table, or holds one."""
    for name in names:
        *folders, base = name.split("/")
        for index, folder in enumerate(folders):
            if folder in LOGS:
                raise _refusal(LOGS[folder], "/".join(folders[:index]) or "the path itself", path)
        if folders[-1:] == ["metadata"] and base.endswith(".metadata.json"):
            raise _refusal("Iceberg", "/".join(folders[:-1]) or "the path itself", path)


def refuse_tables_above(fs: fsspec.AbstractFileSystem, folders: list[str], path: str) -> None:
    """Raises InputError if a folder or one of a few above it is such a table."""
    # Below datasets/org/name, below the server (https: and nothing come before it), below the bucket.
    top = 3 if fs.protocol == "hf" or "http" in fs.protocol else 1
    above = set()
    for folder in folders:
        parts = folder.rstrip("/").split("/")
        above |= {"/".join(parts[:end]) for end in range(len(parts), max(top, len(parts) - LEVELS_UP) - 1, -1)}
    # A partition (date=2024-01-01) is no table.
    candidates = sorted(folder for folder in above if folder and "=" not in folder.rpartition("/")[2])
    with ThreadPoolExecutor(THREADS) as threads:
        for folder, table in zip(candidates, threads.map(lambda folder: _table_at(fs, folder), candidates)):
            if table is not None:
                raise _refusal(table, fs.unstrip_protocol(folder), path)


def _table_at(fs: fsspec.AbstractFileSystem, folder: str) -> str | None:
    for log, table in LOGS.items():
        if fs.isdir(f"{folder}/{log}"):
            return table
    metadata = f"{folder}/metadata"
    if fs.isdir(metadata) and any(name.endswith(".metadata.json") for name in fs.ls(metadata, detail=False)):
        return "Iceberg"
    return None


def _refusal(table: str, at: str, path: str) -> InputError:
    return InputError(
        f"this is a table of {table} ({at}): its log says which rows of its files are live, and mapjob does not read "
        "that; rows that were deleted would come back",
        f"input.path: {path}",
        f"write the table's current rows as plain Parquet into another folder (with Spark, DuckDB or {table}'s own "
        "library), and name that folder",
    )

"""The corpus: pairs of answers with known gold rewards, some of them flipped, with a few natural flaws."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq

from mapjob.lab.world.tasks import QUALITY, Task, stream, write_answer

FLIPPED, QUALITIES = "flipped", ("chosen_quality", "rejected_quality")  # columns
REPEATED_SHARE = 0.005
IDENTICAL_SHARE = 0.005

# (better answer, worse answer) -> weight. Nine in ten pairs hold a right answer, as in a useful corpus.
_MIX = {
    ("helpful", "terse"): 12,
    ("helpful", "near_miss"): 14,
    ("helpful", "evasive"): 14,
    ("helpful", "wrong"): 16,
    ("terse", "near_miss"): 10,
    ("terse", "evasive"): 12,
    ("terse", "wrong"): 12,
    ("near_miss", "wrong"): 3,
    ("near_miss", "evasive"): 3,
    ("evasive", "wrong"): 4,
}


@dataclass(frozen=True)
class Row:
    """One pair; the fields are the corpus's columns. `flipped`: the worse answer is `chosen`."""

    prompt: str
    chosen: str
    rejected: str
    group: str
    task: str
    flipped: bool
    chosen_quality: float
    rejected_quality: float


def draw_pair(task: Task, rng: random.Random) -> Row:
    """Two answers to `task` of different quality, the better one as `chosen`."""
    (better, worse), *_ = rng.choices(tuple(_MIX), tuple(_MIX.values()))
    chosen, rejected = write_answer(task, better, rng), write_answer(task, worse, rng)
    return Row(task.prompt, chosen, rejected, task.group, task.kind, False, QUALITY[better], QUALITY[worse])


def tasks_of(num_pairs: int, seed: int) -> Iterator[Task]:
    """The tasks of a corpus; they grade any answer to its prompts."""
    return islice(stream("corpus", "corpus", seed), num_pairs - int(REPEATED_SHARE * num_pairs))


def make_rows(num_pairs: int, flipped_share: float, seed: int) -> list[Row]:
    """`num_pairs` rows in random order, of which exactly `int(flipped_share * num_pairs)` are flipped.

    REPEATED_SHARE of them repeat another row, IDENTICAL_SHARE have identical sides; neither kind is flipped.
    """
    rng = random.Random(f"corpus {seed}")
    repeated, identical = int(REPEATED_SHARE * num_pairs), int(IDENTICAL_SHARE * num_pairs)
    rows = [draw_pair(task, rng) for task in tasks_of(num_pairs, seed)]
    rng.shuffle(rows)
    for i in range(identical):
        rows[i] = replace(rows[i], rejected=rows[i].chosen, rejected_quality=rows[i].chosen_quality)
    flipped = int(flipped_share * num_pairs)
    for i in range(identical, identical + flipped):
        rows[i] = flip(rows[i])
    rows += rng.sample(rows[identical + flipped :], repeated)
    rng.shuffle(rows)
    return rows


def flip(row: Row) -> Row:
    """The same pair with the other side as `chosen`."""
    return replace(
        row,
        chosen=row.rejected,
        rejected=row.chosen,
        flipped=True,
        chosen_quality=row.rejected_quality,
        rejected_quality=row.chosen_quality,
    )


def describe(rows: list[Row]) -> dict:
    """Counts and means of the finished rows."""
    texts = Counter((row.prompt, row.chosen, row.rejected) for row in rows)
    return {
        "pairs": len(rows),
        "prompts": len({row.prompt for row in rows}),
        "flipped": sum(row.flipped for row in rows),
        "repeated": len(rows) - len(texts),
        "identical_sides": sum(row.chosen == row.rejected for row in rows),
        "mean_chosen_quality": round(fmean(row.chosen_quality for row in rows), 4),
        "mean_rejected_quality": round(fmean(row.rejected_quality for row in rows), 4),
        "groups": dict(sorted(Counter(row.group for row in rows).items())),
        "tasks": dict(sorted(Counter(row.task for row in rows).items())),
    }


def write_shards(rows: list[Row], folder: Path, num_shards: int) -> None:
    """Write `rows` in order as `num_shards` Parquet files of nearly equal size into the new folder `folder`."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist([vars(row) for row in rows])
    edges = [len(rows) * i // num_shards for i in range(num_shards + 1)]
    for i, (start, end) in enumerate(pairwise(edges)):
        path = folder / f"shard-{i:05d}-of-{num_shards:05d}.parquet"
        pq.write_table(table.slice(start, end - start), path, compression="zstd")


def read_shards(folder: Path) -> list[Row]:
    """The rows that `write_shards` wrote, in order."""
    return [Row(**row) for path in sorted(folder.iterdir()) for row in pq.read_table(path).to_pylist()]

"""What publishing a selection costs per kept row, for small row groups and for one that holds the whole file.

    python -m benchmarks.publish [--rows N] [--keep RATIO] [--large N] [--json]

A corpus of one file, as strings and as messages, with texts of 1.2 kB per row, once in row groups of 10,000 rows and
once in one row group; and `--large` rows with texts of 1 MB each. The score store holds the ids of the rows as mapjob
reads them, and scores by hash. Each corpus is ranked and published in a separate process: `us_per_kept_row` is the CPU
time of `publish_rows` there, `peak_mib` the kernel's peak of the process's unshared memory above what it had before.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.scale import MIB, Peaks
from mapjob.config.input import Input
from mapjob.config.selection import Keep, Selection
from mapjob.corpus.plan import Plan, make_plan
from mapjob.ranking.rank import rank_pairs
from mapjob.scoring.reader_families import identify
from mapjob.selection.load import load_scored
from mapjob.selection.publish import Texts, publish_rows
from mapjob.selection.rows import selected_rows
from mapjob.selection.scored import ScoredUnits
from mapjob.store.run_folder import RunFolder
from mapjob.store.score_store import ScoreStore

ROWS_PER_UNIT, SMALL_GROUP = 2_000, 10_000
LENGTHS = {"prompt": 300, "chosen": 450, "rejected": 450}  # characters on average
BLOB = 1 << 22
FAMILIES = ("records", "policy", "reward")
FLAGS = ("truncated", "boundary_moved", "text_not_kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=float, default=0.4)
    parser.add_argument("--large", type=int, default=200, help="rows with texts of 1 MB each; 0 for none")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cases = {
        f"{shape}, {'one row group' if group == arguments.rows else f'groups of {group:,}'}": measured(
            shape, arguments.rows, group, 1, arguments.keep
        )
        for shape in ("strings", "messages")
        for group in (SMALL_GROUP, arguments.rows)
    }
    if arguments.large:
        cases["strings, rows of 1 MB"] = measured("strings", arguments.large, arguments.large, 1_000_000 // 1_200, 1.0)
    print(f"{'':<32}{'us_per_kept_row':>18}{'files':>8}{'peak_mib':>12}")
    for name, figures in cases.items():
        print(f"{name:<32}{figures['us_per_kept_row']:>18.1f}{figures['files']:>8}{figures['peak_mib']:>12.0f}")
    if arguments.json:
        print(json.dumps(cases))


def measured(shape: str, num_rows: int, group: int, factor: int, keep: float) -> dict[str, float]:
    """One corpus, published in a separate process. factor: by which texts are longer than LENGTHS."""
    with tempfile.TemporaryDirectory(prefix="mapjob-publish-benchmark-") as name:
        context = multiprocessing.get_context("spawn")
        for work in (_prepare, _publish):
            process = context.Process(target=work, args=(Path(name), shape, num_rows, group, factor, keep))
            process.start()
            process.join()
            assert process.exitcode == 0, f"{work.__name__} failed"
        return json.loads((Path(name) / "figures.json").read_text())


def _prepare(folder: Path, shape: str, num_rows: int, group: int, factor: int, keep: float) -> None:
    """The corpus and its score store. Ids are those of small row groups, which are read faster."""
    (folder / "corpus").mkdir()
    path = folder / "corpus" / "part-0.parquet"
    _write(path, shape, num_rows, min(group, SMALL_GROUP), factor)
    plan, store = _plan(folder), ScoreStore(str(folder))
    ids = {}
    for index, unit in enumerate(plan.units):
        ids[index], records = identify(unit, plan.corpus)
        store.commit("records", ids[index], records)
        for family, columns in _scores(unit.start, unit.num_rows).items():
            store.commit(family, ids[index], pa.table(columns))
    store.write_packs(FAMILIES, {ids[index]: unit.num_rows for index, unit in enumerate(plan.units)})
    (folder / "ids.json").write_text(json.dumps(ids))
    if group > SMALL_GROUP:
        _write(path, shape, num_rows, group, factor)


def _write(path: Path, shape: str, num_rows: int, group: int, factor: int) -> None:
    generator = np.random.default_rng(0)
    words = ["".join(map(chr, row)) for row in generator.integers(97, 123, (5_000, 6))]
    blob = " ".join(generator.choice(words, BLOB // 7))
    tables = (
        _rows(generator, blob, start, min(1_000, num_rows - start), factor) for start in range(0, num_rows, 1_000)
    )
    first = _shaped(next(tables), shape)
    with pq.ParquetWriter(path, first.schema) as writer:
        waiting = [first]
        for table in tables:
            if sum(part.num_rows for part in waiting) >= group:
                writer.write_table(pa.concat_tables(waiting), row_group_size=group)
                waiting = []
            waiting.append(_shaped(table, shape))
        writer.write_table(pa.concat_tables(waiting), row_group_size=group)


def _rows(generator: np.random.Generator, blob: str, start: int, number: int, factor: int) -> dict[str, list[str]]:
    columns = {}
    for name, mean in LENGTHS.items():
        lengths = generator.gamma(4.0, mean / 4.0, number).astype(int) + 10
        lengths = np.minimum(lengths * factor, BLOB // 2)
        offsets = generator.integers(0, BLOB // 4, number)
        columns[name] = [f"{start + i} {blob[at : at + n]}" for i, (at, n) in enumerate(zip(offsets, lengths))]
    return {**columns, "source": [f"source {i % 7}" for i in range(number)]}


def _shaped(columns: dict[str, list[str]], shape: str) -> pa.Table:
    if shape == "messages":
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        messages = {name: [[{"role": role, "content": text}] for text in columns[name]] for name, role in roles.items()}
        columns = {**columns, **messages}
    return pa.table(columns)


def _plan(folder: Path) -> Plan:
    return make_plan(Input(path=str(folder / "corpus"), plain_text="auto"), False, ROWS_PER_UNIT)


def _scores(first: int, number: int) -> dict[str, dict[str, pa.Array]]:
    generator = np.random.default_rng(first)
    nothing, values = pa.nulls(number, pa.string()), generator.normal(size=(2, number, 2))
    more = {**dict.fromkeys(FLAGS, pa.array([False] * number)), "reason": nothing, "detail": nothing}
    tokens = pa.array([[100, 120]] * number, pa.list_(pa.int32()))
    policy = {"logps": pa.array((-150 + values[0]).tolist()), "num_tokens": tokens}
    return {"policy": policy | more, "reward": {"rewards": pa.array(values[1].tolist())} | more}


def _publish(folder: Path, shape: str, num_rows: int, group: int, factor: int, keep: float) -> None:
    ids = json.loads((folder / "ids.json").read_text())
    plan = _plan(folder).with_ids({int(index): name for index, name in ids.items()})
    selection = Selection(keep=Keep(ratio=keep))
    units = ScoredUnits(plan, {name: name for name in FAMILIES}, ScoreStore(str(folder)), selection)
    rows = selected_rows(rank_pairs(load_scored(units, selection).pairs, selection, units.pair_ids), selection)
    run = RunFolder(str(folder), "run")
    with Peaks(psutil.Process().pid) as peaks:
        time.sleep(0.3)
        before, start = peaks.driver, time.process_time()
        publish_rows(units, rows, Texts(), run, "selected/train")
        spent = time.process_time() - start
        time.sleep(0.3)
    figures = {
        "us_per_kept_row": spent / len(rows) * 1e6,
        "files": len(run.tables("selected")),
        "peak_mib": (peaks.driver - before) / MIB,
    }
    (folder / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main()

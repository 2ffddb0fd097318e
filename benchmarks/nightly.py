"""A corpus that grows by one shard: the cost of the second night compared with the first.

    python -m benchmarks.nightly [--rows N] [--json]

`mapjob run` on sixteen shards of real pairs with small trained models; then again with a seventeenth shard. The second
night scores only the units of the new shard, and ranks all seventeen.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

SHARED = Path(__file__).parents[2] / "shared"
NUM_SHARDS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=250, help="rows per shard")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mapjob-nightly-") as folder:
        figures = two_nights(Path(folder), arguments.rows)
    for name, value in figures.items():
        print(f"{name:<32}{value:>14,.4g}" if isinstance(value, float) else f"{name:<32}{value:>14,}")
    if arguments.json:
        print(json.dumps(figures))


def two_nights(folder: Path, rows: int) -> dict[str, Any]:
    corpus, output, run_file = folder / "corpus", folder / "output", folder / "run.yaml"
    tree = {"input": {"path": str(corpus)}, "output": {"path": str(output)}}
    tree["models"] = {name: {"path": str(SHARED / "models" / "small" / name)} for name in ("policy", "reward")}
    run_file.write_text(yaml.safe_dump(tree))
    pairs = pq.read_table(SHARED / "data" / "alpaca_eval_pairs")
    corpus.mkdir()

    def add_shard(number: int) -> None:
        pq.write_table(pairs.slice(number * rows, rows), corpus / f"night-{number:02}.parquet")

    for number in range(NUM_SHARDS):
        add_shard(number)
    first_s, first = timed_run(run_file)
    scored_first, held_first = column_files(output), bytes_of(output)
    add_shard(NUM_SHARDS)
    second_s, second = timed_run(run_file)
    scored_again = {file: time for file, time in column_files(output).items() if scored_first.get(file) != time}
    figures: dict[str, Any] = {"first_s": first_s, "first_pairs": first["counts"]["rows"]}
    figures["first_units"] = num_units(first)
    figures |= {"second_s": second_s, "second_pairs_ranked_over": second["counts"]["rows"]}
    figures["new_units"] = num_units(second) - num_units(first)
    figures["second_units_scored"] = len({file.name for file in scored_again})
    figures["second_over_first"] = second_s / first_s
    held = bytes_of(output)
    figures |= {f"second_bytes_{name}": held[name] - held_first[name] for name in ("scores", "plans", "runs")}
    figures["bytes_of_scores_per_new_pair"] = figures["second_bytes_scores"] / rows
    selected = Path(second["run_path"]) / "selected"
    figures["bytes_per_selected_pair"] = (
        sum(f.stat().st_size for f in selected.iterdir()) / second["counts"]["selected"]
    )
    figures["bytes_per_pair_of_the_corpus"] = sum(f.stat().st_size for f in corpus.iterdir()) / second["counts"]["rows"]
    return figures


def timed_run(run_file: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of `mapjob run` from start to exit, and the JSON object that it prints last."""
    start = time.monotonic()
    command = [sys.executable, "-m", "mapjob", "run", str(run_file), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return time.monotonic() - start, json.loads(done.stdout.splitlines()[-1])


def num_units(result: dict[str, Any]) -> int:
    return json.loads((Path(result["run_path"]) / "manifest.json").read_text())["corpus"]["num_units"]


def bytes_of(output: Path) -> dict[str, int]:
    """Bytes of each part of the output."""
    parts = [part for part in output.iterdir() if part.is_dir()]
    return {part.name: sum(f.stat().st_size for f in part.rglob("*") if f.is_file()) for part in parts}


def column_files(output: Path) -> dict[Path, int]:
    """Every column file of the score store, with the time at which it was written."""
    return {file: file.stat().st_mtime_ns for file in output.glob("scores/*/*.parquet")}


if __name__ == "__main__":
    main()

"""Many nights on a corpus that grows, in one process without Ray: what each costs, and whether history shows a drift.

    python -m benchmarks.nights [--nights N] [--rows N] [--json]

Every night adds one file of so many rows and runs the run file again; scores are hashes of the tokens. Two drifts are
planted: the source `web` grows from a tenth to nine tenths of the new rows, and for the last third of the nights
another reward model contradicts more labels. Requests and bytes are those of the output's storage.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file

from benchmarks.hash_scorer import WORDS, HashScorer, make_nothing_models
from mapjob.config.load import parse_config
from mapjob.pipeline.stages import with_columns
from mapjob.report.history import Night, history_page, history_text
from mapjob.store.storage import Storage
from mapjob.store.tables import from_ipc
from tests import without_ray

HELP = {"before": 7.0, "after": 1.0}  # what each reward model gives the chosen side, beside a hash in [-4, 4)


class DriftingScorer(HashScorer):
    """The second reward model agrees with fewer labels."""

    def __call__(self, block: pa.Table) -> pa.Table:
        block = super().__call__(block)
        for spec in self._specs:
            if spec.kind == "rewards" and spec.name in block.column_names:
                block = help_chosen(block, spec.name, HELP[Path(spec.files.path).name])
        return block


def help_chosen(block: pa.Table, name: str, by: float) -> pa.Table:
    """The block in which this scorer gives every chosen side so much more."""
    table = from_ipc(block[name][0].as_buffer())
    rewards = [pair and [pair[0] + by, *pair[1:]] for pair in table["rewards"].to_pylist()]
    index = table.column_names.index("rewards")
    table = table.set_column(index, "rewards", pa.array(rewards, pa.list_(pa.float64())))
    return with_columns(block.drop_columns([name]), {name: table})


@contextmanager
def count_storage() -> Iterator[Counter[str]]:
    """Inside, calls of the output's storage by name, and the bytes that they read and wrote."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        call = getattr(Storage, name)

        def count(self: Storage, *arguments: Any) -> Any:
            counts["requests_of_scores" if "/out/scores" in f"{self.url}/{arguments}" else "other_requests"] += 1
            result = call(self, *arguments)
            counts["bytes_written"] += len(arguments[1]) if name in ("create", "replace") else 0
            counts["bytes_read"] += len(result or b"") if name == "read" else 0
            return result

        return count

    with ExitStack() as stack:
        for name in ("create", "replace", "read", "names", "files"):
            stack.enter_context(patch.object(Storage, name, counted(name)))
        yield counts


def make_rows(night: int, num_nights: int, num_rows: int) -> list[dict[str, str]]:
    share = 0.1 + 0.8 * night / max(1, num_nights - 1)
    rows = []
    for number in range(num_rows):
        key = f"{night} {number}"
        words = [WORDS[(night * 31 + number * 7 + step * step) % len(WORDS)] for step in range(24)]
        texts = {"prompt": words[:8], "chosen": [*words[8 : 12 + number % 12], "x"], "rejected": words[8:20]}
        source = "web" if (number + 0.5) / num_rows < share else "forum"
        rows.append({**{name: " ".join([key, *part]) for name, part in texts.items()}, "source": source})
    return rows


def simulate(folder: Path, num_nights: int, num_rows: int) -> Iterator[dict[str, Any]]:
    """One night after the other: its manifest, and what it cost."""
    (folder / "corpus").mkdir(parents=True)
    make_nothing_models(folder / "models")
    for name in HELP:
        shutil.copytree(folder / "models" / "reward", folder / "models" / name)
        weights = folder / "models" / name / "model.safetensors"
        save_file({key: value + len(name) for key, value in load_file(weights).items()}, weights, {"format": "pt"})
    tree: dict[str, Any] = {
        "name": "nightly",
        "input": {"path": str(folder / "corpus"), "columns": {"group": "source"}},
        "output": {"path": str(folder / "out")},
        "models": {"policy": {"path": str(folder / "models" / "policy")}},
        "execution": {"rows_per_unit": num_rows},
    }
    for night in range(num_nights):
        reward = "before" if night < num_nights * 2 // 3 else "after"
        tree["models"]["reward"] = {"path": str(folder / "models" / reward)}
        rows = make_rows(night, num_nights, num_rows)
        pq.write_table(pa.Table.from_pylist(rows), folder / "corpus" / f"night-{night:03}.parquet")
        start = time.monotonic()
        with patch.object(without_ray, "ScorerActor", DriftingScorer), count_storage() as counts:
            manifest = without_ray.run(parse_config(tree))
        yield {"manifest": manifest, "seconds": time.monotonic() - start, **counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--rows", type=int, default=100, help="new rows per night")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--html", type=Path, help="the page of `mapjob history`")
    arguments = parser.parse_args()
    names = ("seconds", "requests_of_scores", "other_requests", "bytes_read", "bytes_written")
    print(f"{'night':>5}{'rows':>9}" + "".join(f"{name:>20}" for name in names))
    nights = []
    with tempfile.TemporaryDirectory(prefix="mapjob-nights-") as folder:
        for number, night in enumerate(simulate(Path(folder), arguments.nights, arguments.rows), 1):
            nights.append(night)
            cells = "".join(f"{night[name]:>20,.2f}" if name == "seconds" else f"{night[name]:>20,}" for name in names)
            print(f"{number:>5}{night['manifest']['counts']['rows']:>9,}{cells}", flush=True)
    shown = [Night.of(night["manifest"], nights[-1]["manifest"]["run_id"]) for night in nights]
    print(history_text(shown))
    if arguments.html:
        arguments.html.write_text(history_page(shown, "nightly"), encoding="utf-8")
    if arguments.json:
        print(json.dumps([{name: night[name] for name in names} for night in nights]))


if __name__ == "__main__":
    main()

"""`mapjob sweep` on a real corpus: python -m benchmarks.sweep CORPUS POLICY REWARD [--json]

The score store is filled with seeded numbers instead of the models', since a sweep does not depend on where numbers
come from; ids, keys and groups are the corpus's own. Then the command is timed in a separate process: 5 alphas, 3
shares, 4 metrics.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from mapjob.config.load import parse_config
from mapjob.corpus.plan import read_unit
from mapjob.corpus.reader import RowReader, read_records
from mapjob.job.prepare import Job, prepare
from mapjob.scoring.reader_families import identity_table

OPTIONS = ["--alpha", "0.25,0.5,1,2.5,calibrated", "--ratio", "0.1,0.25,0.4"]
OPTIONS += ["--metric", "map,map_signed,explicit,implicit_small"]


def fill(job: Job) -> None:
    """One column file per family and unit: real records, seeded numbers."""
    corpus, rng = job.plan.corpus, np.random.default_rng(0)
    for unit in job.plan.units:
        table = read_unit(unit, RowReader(corpus.own_columns))
        records = read_records(table, corpus.reading)
        identity = identity_table(table, records, corpus.columns)
        num = len(records)
        ahead = rng.normal(0.4, 1.0, num)  # so that labels and rewards agree more often than not
        columns = {
            "rewards": [[a, 0.0] for a in ahead.tolist()],
            "logps": (-rng.gamma(20, 10, (num, 2))).tolist(),
            "num_tokens": rng.integers(20, 500, (num, 2)).tolist(),
        }
        none = {name: pa.nulls(num, pa.string()) for name in ("reason", "detail")}
        none |= {name: pa.array([False] * num) for name in ("truncated", "boundary_moved", "text_not_kept")}
        for name, fingerprint in job.families.items():
            own = {"reward": ("rewards",), "policy": ("logps", "num_tokens")}.get(name)
            kept = identity if own is None else pa.table({**{c: columns[c] for c in own}, **none})
            job.store.commit(fingerprint, unit.id, kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus")
    parser.add_argument("policy")
    parser.add_argument("reward")
    parser.add_argument("--group", default="source")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = {
            "input": {"path": options.corpus, "columns": {"group": options.group}},
            "output": {"path": f"{folder}/out"},
            "models": {"policy": {"path": options.policy}, "reward": {"path": options.reward}},
        }
        file = Path(folder) / "run.yaml"
        file.write_text(yaml.safe_dump(tree))
        job = prepare(parse_config(tree))
        fill(job)
        seconds = []
        for _ in range(3):
            start = time.monotonic()
            command = [sys.executable, "-m", "mapjob", "sweep", str(file), *OPTIONS, "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds.append(round(time.monotonic() - start, 2))
        swept = json.loads(done.stdout.splitlines()[-1])
    result = {"rows": job.plan.num_rows, "selections": len(swept["selections"]), "seconds": seconds}
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<12}{value}")


if __name__ == "__main__":
    main()

"""The whole job on a whole corpus: pairs/s, how much of the cores' time went into models, and the re-rank.

    python -m benchmarks.job CORPUS POLICY REWARD [--limit N] [--output FOLDER] [--json]

At the end the selection is compared with the formula of the authors (Huang et al. 2025) on the whole columns.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mapjob import job
from mapjob.config import Config, parse_config
from mapjob.prepare import prepare
from mapjob.ranking.select import Ranking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("policy")
    parser.add_argument("reward")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--output", help="keep the scores here; a finished output is only ranked again")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mapjob-benchmark-") as folder:
        figures = measure(arguments, Path(arguments.output or folder))
    for name, value in figures.items():
        print(f"{name:<32}{value:>14,.4g}" if isinstance(value, float) else f"{name:<32}{value:>14}")
    if arguments.json:
        print(json.dumps(figures))


def measure(arguments: argparse.Namespace, output: Path) -> dict[str, Any]:
    config = run_file(arguments, output)
    start = time.monotonic()
    manifest = job.run(config, arguments.limit, print)
    wall_s = time.monotonic() - start
    model_s = sum(manifest["spent"]["model_s"].values())
    rows, cores = manifest["counts"]["rows"], os.cpu_count() or 1
    figures: dict[str, Any] = {"rows": rows, "cores": cores, "wall_s": wall_s, "pairs_per_s": rows / wall_s}
    for stage, seconds in manifest["spent"]["seconds"].items():
        figures[f"{stage}_s"] = seconds
    # Processor seconds inside the scorers over all that the cores could give from start to end.
    figures["model_share_of_cores"] = model_s / (wall_s * cores)

    other = config.model_copy(update={"selection": config.selection.model_copy(update={"alpha": 2.5})})
    start = time.monotonic()
    job.rank(other, arguments.limit)
    figures["rank_other_alpha_s"] = time.monotonic() - start

    _, ranking = job.ranked(prepare(config, arguments.limit))
    figures |= compare_with_authors(ranking, config)
    return figures


def run_file(arguments: argparse.Namespace, output: Path) -> Config:
    tree = {
        "input": {"path": arguments.corpus},
        "output": {"path": str(output)},
        "models": {"policy": {"path": arguments.policy}, "reward": {"path": arguments.reward}},
    }
    return parse_config(tree)


def compare_with_authors(ranking: Ranking, config: Config) -> dict[str, int]:
    """How many pairs their z-scored top 40 % and ours do not share; 0 means the same set."""
    columns = ranking.pairs.columns
    a = np.maximum(columns["chosen_reward"], columns["rejected_reward"])
    a = a - np.minimum(columns["chosen_reward"], columns["rejected_reward"])
    chosen_mean = columns["chosen_logps"] / columns["chosen_num_tokens"]
    b = np.abs(chosen_mean - columns["rejected_logps"] / columns["rejected_num_tokens"])
    score = (a - a.mean()) / a.std() - config.selection.alpha * (b - b.mean()) / b.std()
    theirs = set(np.argsort(-score, kind="stable")[: int(0.4 * len(score))].tolist())
    ours = set(ranking.kept.tolist())
    return {"selected": len(ours), "differ_from_authors_formula": len(theirs ^ ours)}


if __name__ == "__main__":
    main()

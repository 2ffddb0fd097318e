"""Self-play in known worlds: python -m benchmarks.selfplay [--worlds N] [--metrics M ...] [--set KEY=VALUE] [--json]

Plays configs/selfplay_world.yaml by each metric in worlds made from so many seeds, without a judge, so that no loop
ends early. Intervals are 95 %, Student's t between worlds. What is finished is reused: run it again after a stop.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from mapjob.cli.options import log_to_stderr
from mapjob.job.run import run_job
from mapjob.lab.selfplay.config import load_selfplay
from mapjob.lab.selfplay.iterate import play
from mapjob.lab.validation.statistics import Estimate

RUN_FILE = Path(__file__).parents[1] / "configs" / "selfplay_world.yaml"
MEASURES = {
    "right": "right greedy answers",
    "right_probability": "probability of the right answer",
    "reward": "reward of sampled answers",
    "identical": "identical samples",
    "log_ratio": "|log-ratio| to the first policy",
}
Means = list[dict[str, float]]  # of the policies of a loop, the first one first


def play_in(seed: int, metric: str, overrides: list[str]) -> Means:
    """What the policies of one loop are on held-out prompts."""
    keys = [f"world.seed={seed}", f"selection.metric={metric}", "judge=null", *overrides]
    played = play(load_selfplay(RUN_FILE, keys), run_job)
    return [played["start"], *(row["held_out"] for row in played["iterations"])]


def table_of(measure: str, by_metric: dict[str, list[Means]]) -> list[dict[str, Any]]:
    """A row per policy: the mean over worlds for each metric, its gain over the first policy, and the gain of the first
    metric over each other one; gains are within worlds.
    """
    first_metric, *others = by_metric
    rows = []
    for number in range(len(by_metric[first_metric][0])):
        values = {name: [world[number][measure] for world in worlds] for name, worlds in by_metric.items()}
        starts = [world[0][measure] for world in by_metric[first_metric]]
        row: dict[str, Any] = {"policy": f"after {number}" if number else "first"}
        for name, of_worlds in values.items():
            row[name] = sum(of_worlds) / len(of_worlds)
            row[f"{name} - first"] = _difference(of_worlds, starts) if number else None
        for name in others:
            row[f"{first_metric} - {name}"] = _difference(values[first_metric], values[name]) if number else None
        rows.append(row)
    return rows


def _difference(ours: list[float], theirs: list[float]) -> Estimate:
    return Estimate.between([a - b for a, b in zip(ours, theirs, strict=True)])


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """At most 100 columns for two metrics."""
    widths = {name: "<9" if name == "policy" else ">24" if " - " in name else ">8" for name in rows[0]}
    print(f"\n{title}\n" + "".join(f"{name:{width}}" for name, width in widths.items()))
    for row in rows:
        print("".join(f"{_cell(row[name]):{width}}" for name, width in widths.items()))


def _cell(value: Any) -> str:
    if isinstance(value, Estimate):
        return f"{value.mean:+.3f} ({value.low:+.3f}, {value.high:+.3f})"
    return f"{value:.3f}" if isinstance(value, float) else value or ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worlds", type=int, default=3, help="2 or more")
    parser.add_argument("--metrics", nargs="+", default=["map", "random"])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    log_to_stderr()
    by_metric: dict[str, list[Means]] = {name: [] for name in options.metrics}
    for seed in range(options.worlds):
        for metric, worlds in by_metric.items():
            worlds.append(play_in(seed, metric, options.overrides))
    print(f"{options.worlds} worlds")
    for measure, title in MEASURES.items():
        print_table(title, table_of(measure, by_metric))
    if options.json:
        print(json.dumps(by_metric))


if __name__ == "__main__":
    main()

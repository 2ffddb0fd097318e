"""Self-play in a world with known answers: python -m benchmarks.selfplay [--folder DIR] [--set KEY=VALUE] [--json]

Builds the demo's world if it does not exist, plays configs/selfplay_world.yaml in it, and grades the greedy answers of
every policy to prompts that none was trained on. Intervals are 95 %, by bootstrap over the prompts.
"""

import argparse
import json
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path

import numpy as np

from mapjob.cli.options import log_to_stderr
from mapjob.cli.selfplay import print_iterations
from mapjob.config.load import parse_config, read_tree
from mapjob.config.run import Model
from mapjob.job.run import run_job
from mapjob.lab.selfplay.config import Generation, SelfPlayConfig
from mapjob.lab.selfplay.iterate import play
from mapjob.lab.selfplay.local import LocalEngine
from mapjob.lab.selfplay.requests import Request
from mapjob.lab.world.build import build_world
from mapjob.lab.world.tasks import Task, grade, stream
from mapjob.scoring.model_files import model_files

RUN_FILE = Path(__file__).parents[1] / "configs" / "selfplay_world.yaml"
PROMPTS, RESAMPLES = 900, 2000


def graded(policy: str, tasks: list[Task]) -> np.ndarray:
    """The gold reward of a policy's greedy answer per task."""
    files = model_files(Model(path=policy, dtype="float32"), "policy")
    engine = LocalEngine(files, Generation(temperature=0, max_new_tokens=48, rows_per_batch=128), "chat")
    answers = engine.answer([Request(t.prompt, [{"role": "user", "content": t.prompt}]) for t in tasks], 1)
    return np.array([grade(task, answer[0].text) for task, answer in zip(tasks, answers)])


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the means of bootstrap samples."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", default="demo")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    log_to_stderr()
    build_world(Path(options.folder) / "world")
    tree = json.loads(json.dumps(read_tree(RUN_FILE, options.overrides)).replace('"demo/', f'"{options.folder}/'))
    config = parse_config(tree, str(RUN_FILE), SelfPlayConfig)
    start = time.monotonic()
    played = play(config, run_job)
    seconds = time.monotonic() - start
    print_iterations(played["iterations"])
    tasks = list(islice(stream("held_out", "self-play", 0), PROMPTS))
    groups = defaultdict(list)
    for place, task in enumerate(tasks):
        groups[task.group].append(place)
    policies = [each["policy"] for each in played["iterations"]] + [played["policy"]]
    grades = [graded(policy, tasks) for policy in policies]
    results = []
    for number, own in enumerate(grades):
        low, high = interval(own)
        gained_low, gained_high = interval(own - grades[max(0, number - 1)])
        results.append(
            {
                "after_iterations": number,
                "gold": round(float(own.mean()), 4),
                "interval": [low, high],
                "gain": round(float((own - grades[max(0, number - 1)]).mean()), 4),
                "gain_interval": [gained_low, gained_high],
                **{group: round(float(own[places].mean()), 4) for group, places in sorted(groups.items())},
            }
        )
    print(f"\ngold reward of greedy answers to {PROMPTS} held-out prompts; {seconds:.0f} s of self-play")
    print("policy             gold reward             gain of the iteration      " + "  ".join(sorted(groups)))
    for each in results:
        name = f"after {each['after_iterations']}" if each["after_iterations"] else "before"
        gain = "" if name == "before" else f"{each['gain']:+.3f} [{each['gain_interval'][0]:+.3f}, "
        gain += "" if name == "before" else f"{each['gain_interval'][1]:+.3f}]"
        own = f"{each['gold']:.3f} [{each['interval'][0]:.3f}, {each['interval'][1]:.3f}]"
        print(
            f"{name:<19}{own:<24}{gain:<27}" + "  ".join(f"{each[group]:<{len(group)}.3f}" for group in sorted(groups))
        )
    if options.json:
        print(json.dumps({"seconds": round(seconds, 1), "policies": results}))


if __name__ == "__main__":
    main()

"""What to do with contradicted labels: python -m benchmarks.wrong_labels [--worlds N] [--folder DIR]

Known worlds of items with 10 and 30 % wrong labels and two reward models, a good one and a worse one. In each MAP
(alpha 1) and a random subset select 40 % of the pairs under `on_disagreement` keep, drop and relabel; every policy is
trained for the same number of steps. Intervals are 95 %, Student's t between worlds. The reward model made the labels
before some were turned round, so `relabel` undoes exactly that.
"""

import argparse
import logging
from itertools import product

from mapjob.cli.options import log_to_stderr
from mapjob.lab.validation.config import Validation, load_validation
from mapjob.lab.validation.statistics import Estimate
from mapjob.lab.validation.validate import validate_worlds

RULES, WRONG = ("keep", "drop", "relabel"), (0.1, 0.3)
REWARD_MODELS = {"good": (), "worse": ("world.reward_steps=300", "world.reward_flipped=0.1")}
STEPS = 30
Right = dict[tuple[str, str], list[float]]  # (rule, metric) -> right answers, one per world


def measure(folder: str, num_worlds: int, wrong: float, reward_model: str) -> Right:
    """Right answers of policies that are trained on what each rule and metric select."""
    right: Right = {}
    for rules in (RULES[:1], RULES[1:]):  # the first builds the worlds
        of_rules = {rule: settings_of(folder, num_worlds, wrong, reward_model, rule) for rule in rules}
        worlds = [(rule, world) for rule, validation in of_rules.items() for world in validation.each_world()]
        for (rule, _), result in zip(worlds, validate_worlds([world for _, world in worlds], False), strict=True):
            for row in result["rows"]:
                right.setdefault((rule, row["metric"]), []).append(row["right"]["mean"])
    return right


def settings_of(folder: str, num_worlds: int, wrong: float, reward_model: str, rule: str) -> Validation:
    settings = {
        "worlds": num_worlds,
        "world.folder": f"{folder}/world",
        "world.flipped_share": wrong,
        "run.output.path": f"{folder}/output",
        "run.selection.on_disagreement": rule,
        "models_folder": f"{folder}/models",
        "metrics": "{map: [1]}",
        "bottom": "false",
        "full": "false",
        "random": 2,
        "seeds": 2,
        "recipe.max_steps": f"[{STEPS}]",
    }
    overrides = [*REWARD_MODELS[reward_model], *(f"{key}={value}" for key, value in settings.items())]
    return load_validation("configs/validate_world.yaml", overrides)


def difference(ones: list[float], others: list[float]) -> str:
    gain = Estimate.between([one - other for one, other in zip(ones, others, strict=True)])
    return f"{gain.mean:+.3f} ({gain.low:+.3f}, {gain.high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worlds", type=int, default=10)
    parser.add_argument("--folder", default="validation")
    options = parser.parse_args()
    log_to_stderr()
    logging.getLogger("mapjob").setLevel("WARNING")
    lines = [f"{'reward model':<14}{'wrong':>6}  {'rule':<9}{'random':>7}{'map 1':>7}  map 1 - random"]
    compared = [f"{'reward model':<14}{'wrong':>6}  {'map 1: drop - keep':<26}map 1: relabel - drop"]
    for name, wrong in product(REWARD_MODELS, WRONG):
        right = measure(options.folder, options.worlds, wrong, name)
        case = f"{name:<14}{wrong:>6.0%}  "
        for rule in RULES:
            by_map, at_random = (right[rule, metric] for metric in ("map", "random"))
            means = "".join(f"{sum(values) / len(values):>7.3f}" for values in (at_random, by_map))
            lines.append(f"{case}{rule:<9}{means}  {difference(by_map, at_random)}")
            print(lines[-1], flush=True)
        keep, drop, relabel = (right[rule, "map"] for rule in RULES)
        compared.append(f"{case}{difference(drop, keep):<26}{difference(relabel, drop)}")
    print("\nright answers to held-out prompts, over", options.worlds, "worlds", f"of each kind, {STEPS} steps\n")
    print("\n".join([*lines, "", *compared]))


if __name__ == "__main__":
    main()

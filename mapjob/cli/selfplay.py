"""`mapjob selfplay`: the loop of generation, scoring, selection and training."""

from collections.abc import Iterator
from typing import Any

from mapjob.cli.options import ConfigFile, Overrides, Result
from mapjob.errors import check_extra
from mapjob.escaping import one_line
from mapjob.job.run import run_job
from mapjob.lab.selfplay.config import load_selfplay

# Measures of held-out prompts: title, width, format. Every reward model has a column under its own name.
HELD_OUT = {
    "judge": ("judge", 9, ".3f"),
    "right": ("right", 9, ".3f"),
    "right_probability": ("P(right)", 11, ".3f"),
    "tokens": ("tokens", 9, ".1f"),
    "identical": ("identical", 12, ".0%"),
    "log_ratio": ("|log-ratio|", 14, ".3f"),
}
LEGEND = """\
Means over the samples of a prompt, then over prompts; rewards and the judge's in their own units. right: share of right
greedy answers; P(right): probability of all wordings of the right answer; both without the hopeless kind. identical:
chance that two samples of a prompt are the same text. |log-ratio|: how far the policy has moved from the first one, in
nats per token of its own samples."""
UNSEEN = "nothing is held out, so whether answers get better is unknown: give selection.held_out, such as 0.1"
UNJUDGED = "nobody judges: the loop goes on whatever becomes of its answers; give another reward model as judge"


def selfplay(config: ConfigFile, overrides: Overrides = None) -> Result:
    """Answer prompts, rank the pairs, rewrite the best prompts, answer those, train; again with the trained policy.

    Every policy is measured on the held-out prompts (selection.held_out). With a judge the loop stops when their
    answers get worse, and the best policy is the result. Run the same command again after any interruption: it resumes
    at the stage that was not finished. Needs TRL: pip install 'mapjob\\[train]'.

    Example: mapjob selfplay configs/selfplay.yaml --set iterations=3
    """
    check_extra("trl", "train", "training", "mapjob selfplay")
    from mapjob.lab.selfplay.iterate import play  # slow to import, and needed by no other command

    played = play(load_selfplay(config, overrides or ()), run_job)
    for line in describe_play(played):
        print(line)
    print(f"iterations: {one_line(played['path'])}/selfplay.json")
    return played


def describe_play(played: dict[str, Any]) -> Iterator[str]:
    """The iterations, what their policies are on held-out prompts, why the loop ended, and its result."""
    iterations, last = played["iterations"], len(played["iterations"])
    yield from table_of_iterations(iterations)
    yield ""
    if played["start"] is None:
        yield UNSEEN
    else:
        yield f"{played['held_out']:,} held-out prompts:"
        yield from table_of_measures([played["start"], *(row["held_out"] for row in iterations)])
        yield LEGEND
        yield ""
    if played["config"]["judge"] is None:
        yield UNJUDGED
    elif played["stopped"] is not None:
        yield f"stopped after iteration {last} of {played['config']['iterations']}: {played['stopped']}"
    else:
        yield "the judge saw no fall"
    best = played["best"]
    chosen = f"after iteration {best}" if best else "the first one: no iteration made it better"
    yield f"policy ({chosen}): {one_line(played['policy'])}"


def table_of_iterations(iterations: list[dict[str, Any]]) -> Iterator[str]:
    """A line per iteration: mean reward of all responses to the prompts of the run file, mean margins of all pairs."""
    yield "iteration  prompts  rewrites    pairs  selected  selected before  reward  |margin|  |implicit|"
    for row in iterations:
        rewards = ", ".join(f"{value:.3f}" for value in row["mean_reward"].values())
        yield (
            f"{row['iteration']:>9}{row['prompts']:>9,}{row['rewrites']['kept']:>10,}{row['pairs']:>9,}"
            f"{row['selected']:>10,}{row['selected_before']:>17.0%}{rewards:>8}"
            f"{row['mean_abs_reward_margin']:>10.3f}{row['mean_abs_implicit_margin']:>12.3f}"
        )


def table_of_measures(measures: list[dict[str, Any]]) -> Iterator[str]:
    """A line per policy, the first one and one for each iteration: means over held-out prompts."""
    rewards = {name: (one_line(name), len(one_line(name)) + 3, ".3f") for name in measures[0] if "reward" in name}
    columns = rewards | {name: column for name, column in HELD_OUT.items() if name in measures[0]}
    yield f"{'policy':<9}" + "".join(f"{title:>{width}}" for title, width, _ in columns.values())
    for number, means in enumerate(measures):
        name = f"after {number}" if number else "first"
        cells = ("" if means[key] is None else format(means[key], form) for key, (_, _, form) in columns.items())
        yield f"{name:<9}" + "".join(f"{cell:>{width}}" for cell, (_, width, _) in zip(cells, columns.values()))

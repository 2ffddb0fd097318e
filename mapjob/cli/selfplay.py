"""`mapjob selfplay`: the loop of generation, scoring, selection and training."""

from typing import Any

from mapjob.cli.options import ConfigFile, Overrides, Result
from mapjob.config.load import load_config
from mapjob.errors import check_extra
from mapjob.escaping import one_line
from mapjob.job.run import run_job
from mapjob.lab.selfplay.config import SelfPlayConfig


def selfplay(config: ConfigFile, overrides: Overrides = None) -> Result:
    """Answer prompts, rank the pairs, rewrite the best prompts, answer those, train; again with the trained policy.

    Run the same command again after any interruption: it resumes at the stage that was not finished. Needs TRL:
    pip install 'mapjob\\[train]'.

    Example: mapjob selfplay configs/selfplay.yaml --set iterations=3
    """
    check_extra("trl", "train", "training", "mapjob selfplay")
    from mapjob.lab.selfplay.iterate import play  # slow to import, and needed by no other command

    played = play(load_config(config, overrides or (), SelfPlayConfig), run_job)
    print_iterations(played["iterations"])
    print(f"policy: {one_line(played['policy'])}")
    print(f"iterations: {one_line(played['path'])}/selfplay.json")
    return played


def print_iterations(iterations: list[dict[str, Any]]) -> None:
    """Print one line per iteration: rewards of all responses to the prompts of the run file, margins of all pairs."""
    print("iteration  prompts  rewrites    pairs  selected  of those before  mean reward  |reward margin|  |implicit|")
    for row in iterations:
        rewards = ", ".join(f"{value:.3f}" for value in row["mean_reward"].values())
        print(
            f"{row['iteration']:>9}{row['prompts']:>9,}{row['rewrites']['kept']:>10,}{row['pairs']:>9,}"
            f"{row['selected']:>10,}{row['selected_before']:>17.0%}{rewards:>13}"
            f"{row['mean_abs_reward_margin']:>17.3f}{row['mean_abs_implicit_margin']:>12.3f}"
        )

"""`mapjob demo`: a world of its own, the whole job on it, and what came out."""

from pathlib import Path
from typing import Annotated

import typer

from mapjob import job
from mapjob.cli.options import Json, Verbose, print_result, say


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where the demo's world, scores and runs go.")] = Path("demo"),
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make a small preference world, train a policy and a reward model on it, and run the whole job. Needs no network.

    Example: mapjob demo
    """
    from mapjob.report.demo import demo_config, extremes
    from mapjob.world.build import build_world

    world = build_world(folder / "world", say=say)
    path, config = demo_config(folder, world)
    manifest = job.run(config, say=say, verbose=verbose)
    print(extremes(config))
    print_result(manifest, job.path_of(manifest), json)

"""`mapjob demo`: a small synthetic world, and the whole job on it."""

import logging
from pathlib import Path
from typing import Annotated

import numpy as np
from typer import Option

from mapjob.cli.options import Result, print_run
from mapjob.config.load import load_config
from mapjob.job.prepare import prepare_for_ranking
from mapjob.job.rank import pick_rows, rank_scored
from mapjob.job.run import run_job

log = logging.getLogger(__name__)

EXTREMES = 6  # pairs shown of each end of the ranking


def demo(folder: Annotated[Path, Option(help="Where the demo's world, scores and runs go.")] = Path("demo")) -> Result:
    """Make a small preference world, train a policy and a reward model on it, and run the whole job. Needs no network.

    Example: mapjob demo
    """
    from mapjob.lab.world.build import build_world
    from mapjob.lab.world.demo import flips_line, print_extremes, write_run_file

    build_world(folder / "world")
    run_file = write_run_file(folder)
    config = load_config(run_file)
    manifest = run_job(config)
    prepared = prepare_for_ranking(config, None)
    scored, ranking = rank_scored(prepared)
    ends = np.concatenate([ranking.order[:EXTREMES], ranking.order[-EXTREMES:]])
    print_extremes(pick_rows(prepared, scored, ranking, ends), config.selection.metric)
    print(flips_line(prepared.plan, ranking))
    result = print_run(manifest, promote=True)
    log.info(f"next: mapjob show {result['run_path']} 1")
    log.info(f"      mapjob rank {run_file} --set selection.metric=map_signed")
    return result

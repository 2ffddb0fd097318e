"""`mapjob run`: the whole job."""

from typing import Annotated

import typer

from mapjob import job
from mapjob.cli.options import ConfigFile, Json, Limit, Overrides, TrustRemoteCode, Verbose, print_result, say
from mapjob.config import load_config

Events = Annotated[
    str | None, typer.Option(metavar="FILE", help="Append a JSON line for every unit, and for start and finish.")
]


def run(
    config: ConfigFile,
    overrides: Overrides = None,
    limit: Limit = None,
    trust_remote_code: TrustRemoteCode = False,
    events: Events = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Score what is missing, rank the whole corpus, publish the selection.

    Run the same command again after any interruption: it goes on from the units that are committed.

    Example: mapjob run configs/single_gpu.yaml --set selection.keep.ratio=0.25
    """
    manifest = job.run(load_config(config, overrides or ()), limit, say, verbose, trust_remote_code, events)
    print_result(manifest, job.path_of(manifest), json)

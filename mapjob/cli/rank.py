"""`mapjob rank`: another selection from the same scores."""

from mapjob import job
from mapjob.cli.options import ConfigFile, Json, Limit, Overrides, Verbose, print_result, say
from mapjob.config import load_config


def rank(
    config: ConfigFile, overrides: Overrides = None, limit: Limit = None, json: Json = False, verbose: Verbose = False
) -> None:
    """Rank and publish from the score store alone, as a new run. No model is loaded.

    Example: mapjob rank configs/demo.yaml --set selection.alpha=2.5 --set selection.keep='{count: 500}'
    """
    manifest = job.rank(load_config(config, overrides or ()), limit, say)
    print_result(manifest, job.path_of(manifest), json)

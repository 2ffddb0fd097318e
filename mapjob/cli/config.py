"""`mapjob config`: the run file checked and explained."""

import json

import typer
import yaml

from mapjob.cli.options import ConfigFile, Overrides
from mapjob.config import Config, load_config
from mapjob.corpus.remote import redacted

config_app = typer.Typer(help="Check a run file, or list every key.", no_args_is_help=True)


@config_app.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Read a run file, report every fault, and print it with all defaults filled in.

    Example: mapjob config check configs/demo.yaml
    """
    tree = load_config(config, overrides or ()).model_dump(mode="json")
    print(redacted(yaml.safe_dump(tree, sort_keys=False)), end="")


@config_app.command()
def schema() -> None:
    """Print the JSON schema of run files: every key, its values and default.

    Example: mapjob config schema | less
    """
    print(json.dumps(Config.model_json_schema(), indent=2))

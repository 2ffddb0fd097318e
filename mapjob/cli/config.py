"""`mapjob config`: the run file checked and explained."""

import json
from typing import Annotated

import yaml
from typer import Option, Typer

from mapjob.cli.options import ConfigFile, Overrides
from mapjob.config.load import parse_config, read_tree
from mapjob.config.run import Config, Section
from mapjob.errors import ConfigError
from mapjob.escaping import redact
from mapjob.lab.selfplay.config import GenerateConfig, SelfPlayConfig, load_selfplay
from mapjob.lab.validation.config import Validation, load_validation

KINDS = {"run": Config, "generate": GenerateConfig, "selfplay": SelfPlayConfig, "validate": Validation}
Command = Annotated[str, Option(help="The command: run, generate, selfplay or validate.")]

config_app = Typer(help="Check a run file, or list every key.", no_args_is_help=True)


@config_app.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Read a run file, report every fault, and print it with all defaults filled in.

    Example: mapjob config check configs/demo.yaml
    """
    tree = read_tree(config, overrides or ())
    if "run" in tree:
        checked: Section = load_validation(config, overrides or ())
    elif "world" in tree or {"prompts", "models"} <= tree.keys():
        checked = load_selfplay(config, overrides or ())
    elif "prompts" in tree:
        checked = parse_config(tree, config, GenerateConfig)
    else:
        checked = parse_config(tree, config)
    print(redact(yaml.safe_dump(checked.model_dump(mode="json"), sort_keys=False)), end="")


@config_app.command()
def schema(command: Command = "run") -> None:
    """Print the JSON schema of run files: every key, its values and default.

    Example: mapjob config schema --command generate | less
    """
    if command not in KINDS:
        raise ConfigError(f"no run file belongs to {command!r}", "--command", f"one of {', '.join(KINDS)}")
    print(json.dumps(KINDS[command].model_json_schema(), indent=2))

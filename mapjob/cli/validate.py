"""`mapjob validate`: does selecting help, on held-out prompts, against random subsets and against everything?"""

import json
from typing import Annotated

import typer

from mapjob.cli.options import Overrides
from mapjob.cli.train import check_trl
from mapjob.escaping import one_line


def validate(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="The validation file (YAML).")],
    overrides: Overrides = None,
    development: Annotated[
        bool, typer.Option("--development", help="Test on the prompts that are set aside to choose a recipe by.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per row of the table, last.")
    ] = False,
) -> None:
    """Train the same recipe on each selection, on everything and on random subsets, and compare on held-out prompts.

    Needs TRL, which the extra `train` of mapjob installs. Every training that is finished is kept: the same command
    goes on where it was stopped.

    Example: mapjob validate configs/validate_world.yaml
    """
    check_trl("mapjob validate")
    # Slow to import, and needed by no other command.
    from mapjob.lab.validation.config import load_validation
    from mapjob.lab.validation.report import as_text
    from mapjob.lab.validation.validate import validate as carry_out

    result = carry_out(load_validation(config, overrides or ()), development)
    print(as_text(result))
    print(f"validation: {one_line(result['path'])}")
    if as_json:
        for row in result["rows"]:
            print(json.dumps(row))

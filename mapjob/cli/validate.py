"""`mapjob validate`: does selecting help, on held-out prompts, compared with all pairs and with random subsets?"""

import json
from typing import Annotated

from typer import Argument, Option

from mapjob.cli.options import Overrides
from mapjob.errors import check_extra
from mapjob.escaping import one_line


def validate(
    config: Annotated[str, Argument(metavar="CONFIG", help="The validation file (YAML).")],
    overrides: Overrides = None,
    development: Annotated[
        bool, Option("--development", help="Test on the prompts set aside for choosing a recipe.")
    ] = False,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object per row of the table, last.")] = False,
) -> None:
    """Train one recipe on each selection, on all pairs and on random subsets, and compare on held-out prompts.

    Needs TRL: pip install 'mapjob\\[train]'. Finished trainings are kept: the same command resumes where it stopped.

    Example: mapjob validate configs/validate_world.yaml
    """
    check_extra("trl", "train", "training", "mapjob validate")
    from mapjob.lab.validation.config import load_validation
    from mapjob.lab.validation.report import as_text
    from mapjob.lab.validation.validate import validate as carry_out

    result = carry_out(load_validation(config, overrides or ()), development)
    print(as_text(result))
    print(f"validation: {one_line(result['path'])}")
    if as_json:
        for row in result["rows"]:
            print(json.dumps(row))

"""`mapjob diff`: how two selections differ."""

import json as json_module
from dataclasses import asdict
from typing import Annotated

import typer

from mapjob.cli.options import Json
from mapjob.report.diff import compare, diff_text
from mapjob.store.run_folder import open_run


def diff(
    old: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or an output folder for its newest run.")],
    new: Annotated[str, typer.Argument(metavar="RUN", help="The other one.")],
    json: Json = False,
) -> None:
    """Say how two selections differ: pairs that entered, left and moved, and what that did to each group.

    Example: mapjob diff runs/demo/runs/map-0123456789abcdef runs/demo
    """
    difference = compare(open_run(old), open_run(new))
    print(diff_text(difference))
    if json:
        print(json_module.dumps({**asdict(difference), "jaccard": difference.jaccard}))

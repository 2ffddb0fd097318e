"""`mapjob show`: one pair as a person would read it."""

from typing import Annotated

import typer

from mapjob.cli.options import Verbose
from mapjob.report.pair import find_pair, pair_text
from mapjob.store.run_folder import open_run


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or an output folder for its newest run.")],
    which: Annotated[str, typer.Argument(metavar="RANK|PAIR_ID", help="A rank (1 = best) or a pair_id.")],
    verbose: Verbose = False,
) -> None:
    """Print a pair of a finished run: prompt, both completions, margins, and why it ranks where it does.

    Example: mapjob show runs/demo 1
    """
    folder = open_run(run)
    print(pair_text(folder, find_pair(folder, which)))

"""`mapjob show`: one pair as a person would read it."""

from typing import Annotated

from typer import Argument

from mapjob.cli.options import Run
from mapjob.errors import ConfigError
from mapjob.job.rank import find_pair
from mapjob.report.pair import pair_text, selected_pair
from mapjob.store.run_folder import open_run


def show(
    run: Run, which: Annotated[str, Argument(metavar="RANK|PAIR_ID", help="A rank (1 = best) or a pair_id.")]
) -> None:
    """Print a pair of a finished run: prompt, both completions, margins, and why it has its rank. No model is needed.

    Example: mapjob show runs/demo 1
    """
    finished = open_run(run)
    selected = selected_pair(finished, which)
    row = selected or find_pair(finished.manifest, which)
    if row is None:
        do = f"ranks go from 1 to {finished.manifest['counts']['ranked']:,}"
        raise ConfigError(f"no pair has the rank or pair_id {which}", finished.folder.url, do)
    print(pair_text(finished.manifest, row, is_selected=selected is not None))

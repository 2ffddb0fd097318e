"""`mapjob show`: one pair as a person would read it."""

from typing import Annotated

import typer

from mapjob.cli.options import Run
from mapjob.errors import ConfigError
from mapjob.job.rank import find_pair
from mapjob.report.pair import pair_text, selected_pair
from mapjob.store.run_folder import open_run


def show(
    run: Run,
    which: Annotated[str, typer.Argument(metavar="RANK|PAIR_ID", help="A rank (1 = best) or a pair_id.")],
) -> None:
    """Print a pair of a finished run: prompt, both completions, margins, and why it has its rank.

    Example: mapjob show runs/demo 1
    """
    folder = open_run(run)
    manifest = folder.manifest
    assert manifest is not None, "open_run returns finished runs"
    selected = selected_pair(folder, which)
    row = selected or find_pair(manifest, which)
    if row is None:
        ranked = manifest["counts"]["ranked"]
        raise ConfigError(f"no pair has the rank or pair_id {which}", folder.url, f"ranks go from 1 to {ranked:,}")
    print(pair_text(folder, row, is_selected=selected is not None))

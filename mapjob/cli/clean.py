"""`mapjob clean`: delete files that no finished run refers to."""

from typing import Annotated

import typer

from mapjob.escaping import one_line
from mapjob.store.output import Output


def clean(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The output.path of a run file.")],
    days: Annotated[float, typer.Option("--days", min=0, help="Only files unchanged for this many days.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """List old files that no finished run refers to, and delete them after you confirm.

    These are runs that never finished, columns of models and units that no run used, and files of killed writers. The
    scores of a run that is still going on are among them: keep --days longer than your longest run.

    Example: mapjob clean runs/demo --days 7
    """
    folder = Output(output)
    found = [unnamed for unnamed in folder.unnamed() if unnamed.age_days >= days]
    for unnamed in found:
        size = f"{unnamed.num_bytes / 1e6:,.1f} MB"
        print(f"{size:>14}  {unnamed.age_days:>6.1f} days  {one_line(unnamed.name)}  ({unnamed.why})")
    if not found:
        print(f"nothing to clean: no unreferenced file is older than {days:g} days")
        return
    total = sum(unnamed.num_bytes for unnamed in found) / 1e6
    if yes or typer.confirm(f"delete these {len(found)} ({total:,.1f} MB)?"):
        for unnamed in found:
            folder.remove(unnamed)
        print(f"deleted {len(found)}")

"""`mapjob clean`: remove what no finished run names."""

from typing import Annotated

import typer

from mapjob.escaping import one_line
from mapjob.store.output import Output


def clean(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The output.path of a run file.")],
    days: Annotated[float, typer.Option("--days", min=0, help="Only what has not changed for so many days.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """List what no manifest names and has not changed for some days, then remove it when you agree.

    That is: runs that never finished, columns of models and units that no run used, files of killed writers. A score
    that no manifest names may be of a run that is going on: keep --days longer than your longest run.

    Example: mapjob clean runs/demo --days 7
    """
    folder = Output(output)
    found = [unnamed for unnamed in folder.unnamed() if unnamed.age_days >= days]
    for unnamed in found:
        size = f"{unnamed.num_bytes / 1e6:,.1f} MB"
        print(f"{size:>14}  {unnamed.age_days:>6.1f} days  {one_line(unnamed.name)}  ({unnamed.why})")
    if not found:
        print(f"nothing that no run names is older than {days:g} days")
        return
    total = sum(unnamed.num_bytes for unnamed in found) / 1e6
    if yes or typer.confirm(f"remove these {len(found)} ({total:,.1f} MB)?"):
        for unnamed in found:
            folder.remove(unnamed)
        print(f"removed {len(found)}")

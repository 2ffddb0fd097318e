"""`mapjob clean`: delete files that no finished run refers to."""

import math
from typing import Annotated

from typer import Argument, Option

from mapjob.cli.options import confirm
from mapjob.escaping import one_line, wrap
from mapjob.store.output import FINISHED, Output


def clean(
    output: Annotated[str, Argument(metavar="OUTPUT", help="The output.path of a run file.")],
    days: Annotated[float, Option(min=0, help="Only files unchanged for this many days.")] = 30.0,
    runs_older_than: Annotated[
        float | None,
        Option(min=0, metavar="DAYS", help="Also finished runs of this age, but for the promoted one and the newest."),
    ] = None,
    yes: Annotated[bool, Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """List old files that no finished run refers to, and delete them after you confirm; before, what the output holds.

    These are runs that never finished, columns and converted inputs that no run used, and files of killed writers. The
    scores of a run that is still going on are among them: keep --days longer than your longest run. With
    --runs-older-than, finished runs leave too, and what only they referred to.

    Example: mapjob clean runs/demo --days 7 --runs-older-than 30
    """
    folder = Output(output)
    for name, (num_files, num_bytes) in folder.sizes().items():
        print(f"{num_bytes / 1e6:>11,.1f} MB  {num_files:>6,} file{'s' * (num_files != 1):<1}  {one_line(name)}")
    old = math.inf if runs_older_than is None else runs_older_than
    orphans = [orphan for orphan in folder.orphans(old) if orphan.age_days >= days or orphan.why == FINISHED]
    for orphan in orphans:
        size = f"{orphan.num_bytes / 1e6:,.1f} MB"
        print(wrap(f"{size:>14}  {orphan.age_days:>6.1f} days  {one_line(orphan.name)}  ({orphan.why})"))
    if not orphans:
        runs = "" if runs_older_than is None else f", and no other run is older than {runs_older_than:g}"
        print(f"nothing to clean: no unreferenced file is older than {days:g} days{runs}")
        return
    total = sum(orphan.num_bytes for orphan in orphans) / 1e6
    if yes or confirm(f"delete these {len(orphans)} ({total:,.1f} MB)?"):
        for orphan in orphans:
            folder.remove(orphan)
        print(f"deleted {len(orphans)}")

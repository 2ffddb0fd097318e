"""`mapjob clean`: delete files that no finished run refers to."""

from typing import Annotated

from typer import Argument, Option, confirm

from mapjob.escaping import one_line
from mapjob.store.output import Output


def clean(
    output: Annotated[str, Argument(metavar="OUTPUT", help="The output.path of a run file.")],
    days: Annotated[float, Option(min=0, help="Only files unchanged for this many days.")] = 30.0,
    yes: Annotated[bool, Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """List old files that no finished run refers to, and delete them after you confirm.

    These are runs that never finished, columns and converted inputs that no run used, and files of killed writers. The
    scores of a run that is still going on are among them: keep --days longer than your longest run.

    Example: mapjob clean runs/demo --days 7
    """
    folder = Output(output)
    orphans = [orphan for orphan in folder.orphans() if orphan.age_days >= days]
    for orphan in orphans:
        size = f"{orphan.num_bytes / 1e6:,.1f} MB"
        print(f"{size:>14}  {orphan.age_days:>6.1f} days  {one_line(orphan.name)}  ({orphan.why})")
    if not orphans:
        print(f"nothing to clean: no unreferenced file is older than {days:g} days")
        return
    total = sum(orphan.num_bytes for orphan in orphans) / 1e6
    if yes or confirm(f"delete these {len(orphans)} ({total:,.1f} MB)?"):
        for orphan in orphans:
            folder.remove(orphan)
        print(f"deleted {len(orphans)}")

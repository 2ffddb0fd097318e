"""`mapjob promote`: which run of an output folder is the one to be used."""

import logging
from typing import Annotated

from typer import Argument

from mapjob.cli.options import Result
from mapjob.escaping import one_line
from mapjob.store.output import Output
from mapjob.store.run_folder import describe_run, find_promoted

log = logging.getLogger(__name__)


def promote(
    output: Annotated[str, Argument(metavar="OUTPUT", help="The output.path of a run file.")],
    which: Annotated[
        str, Argument(metavar="RUN", help="A run's id, the start of one, its name if no other has it, or its folder.")
    ],
) -> Result:
    """Let latest.json name another finished run: the one that `train`, `push` and others take of this output.

    Example: mapjob promote runs/demo map-0123
    """
    run = Output(output).find_run(which)
    before = find_promoted(output)
    run.folder.promote()
    for check in run.manifest.get("checks", ()):
        log.warning(f"promoted although a check failed when it finished: {check['why']}")
    is_new = before != run.folder.run_id
    print(one_line(f"{'promoted' if is_new else 'already promoted'}: {describe_run(run.manifest)}"))
    if is_new:
        print(f"before: {before or 'none'}")
    return {"run_id": run.folder.run_id, "run_path": run.folder.url, "promoted": True, "before": before}

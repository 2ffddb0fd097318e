"""`mapjob promote`: which run of an output folder is the one to be used."""

from typing import Annotated

from typer import Argument

from mapjob.cli.options import Result
from mapjob.errors import ConfigError
from mapjob.escaping import one_line
from mapjob.store.output import Output
from mapjob.store.run_folder import describe_run, promoted_id


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
    try:
        before = promoted_id(output)
    except ConfigError:  # damaged, which this mends
        before = None
    run.folder.promote()
    print(one_line(f"promoted: {describe_run(run.manifest)}, before: {before or 'none'}"))
    return {"run_id": run.folder.run_id, "run_path": run.folder.url, "promoted": True, "before": before}

"""`mapjob status`: the runs of an output folder, and what is new or missing since the promoted one."""

from typing import Annotated

from typer import Argument

from mapjob.cli.options import Result
from mapjob.config.load import parse_config
from mapjob.errors import MapjobError
from mapjob.escaping import one_line
from mapjob.job.prepare import prepare
from mapjob.store.output import Output
from mapjob.store.run_folder import Manifest, describe_loss, has_units, promoted_id, read_units


def status(output: Annotated[str, Argument(metavar="OUTPUT", help="The output.path of a run file.")]) -> Result:
    """List the finished and unfinished runs of an output folder, and what has changed since the
    promoted one (if none is, the one that finished last).

    Example: mapjob status runs/demo
    """
    finished, unfinished = Output(output).list_runs()
    manifests = [run.manifest for run in finished]
    for manifest in manifests:
        counts = manifest["counts"]
        print(
            f"{manifest['finished_at'][:19]}Z  {one_line(manifest['run_id']):<36}{counts['rows']:>12,} rows"
            f"{counts['ranked']:>12,} ranked{counts['selected']:>12,} selected"
        )
        if loss := describe_loss(manifest):
            print(f"{'':<22}{loss}")
    for run_id in unfinished:
        print(f"unfinished            {one_line(run_id)}: run its run file again to complete or replace it")
    promoted = next((manifest for manifest in manifests if manifest["run_id"] == promoted_id(output)), None)
    now: Result = {"lines": ["no run has finished here"]}
    if manifests:
        now = _compare(promoted or manifests[-1], "the promoted run" if promoted else "the newest run")
    for line in now.pop("lines"):
        print(one_line(line))
    return {"runs": [m["run_id"] for m in manifests], "unfinished": unfinished, **now}


def _compare(run: Manifest, name: str) -> Result:
    """What is in the corpus and the score store now, compared with a run: numbers, and `lines` for people."""
    try:
        job = prepare(parse_config(run["config"]), run["limit"])
    except MapjobError as error:
        return {"lines": [f"{name} cannot be planned again: {error.what} ({error.where})"]}
    ids = [unit.id for unit in job.plan.units]
    then, now = set(ids if has_units(run, ids) else read_units(run)), set(ids)
    new = [unit for unit in job.plan.units if unit.id not in then]
    lacking = {name: number for name, number in job.lacking().items() if number}
    gone, rows, unread = len(then - now), sum(unit.num_rows for unit in new), len(job.plan.unnamed)
    most = "up to " if unread else ""  # what was not read may be what it was, in another file
    changed = (
        f"{len(new)} new or changed units ({rows:,} rows), {most if gone else ''}{gone} units no longer in the corpus"
    )
    lines = [f"since {name}: {changed if new or gone or lacking else 'nothing new'}"]
    if unread:
        lines.append(f"  {unread} units are in files that are new or changed: a run reads them, and scores what is new")
    lines += [f"  {name}: {most}{number} units are not scored" for name, number in lacking.items()]
    return {"lines": lines, "new_units": len(new), "new_rows": rows, "gone_units": gone, "lacking": lacking}

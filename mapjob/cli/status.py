"""`mapjob status`: the runs of an output folder, and what is new or missing since the promoted one."""

from typing import Annotated

from typer import Argument

from mapjob.cli.options import Result
from mapjob.config.load import parse_config
from mapjob.errors import MapjobError
from mapjob.escaping import one_line
from mapjob.job.prepare import prepare
from mapjob.report.status import age, describe, status_lines
from mapjob.store.output import Output
from mapjob.store.run_folder import Manifest, find_promoted, has_units, read_units


def status(output: Annotated[str, Argument(metavar="OUTPUT", help="The output.path of a run file.")]) -> Result:
    """List the finished and unfinished runs of an output folder, and what has changed since the promoted one (if none
    is, the one that finished last).

    Example: mapjob status runs/demo
    """
    folder, promoted = Output(output), find_promoted(output)
    finished, unfinished = folder.list_runs()
    runs = [describe(run.manifest, promoted) for run in finished]
    for run in runs:
        for line in status_lines(run):
            print(line)
    begun = {run_id: folder.begun_at(run_id) for run_id in unfinished}
    for run_id, at in begun.items():
        print(f"{one_line(run_id)}  unfinished, begun {age(at)}: run its run file again")
    now: Result = {"lines": ["no run has finished here"]}
    if finished:
        manifest = next((run.manifest for run in finished if run.folder.run_id == promoted), None)
        named = "the newest run" if manifest is None else "the promoted run"
        now = _compare(manifest or finished[-1].manifest, named)
    for line in now.pop("lines"):
        print(one_line(line))
    of_unfinished = [{"run_id": run_id, "begun_at": at.isoformat()} for run_id, at in begun.items()]
    return {"runs": runs, "promoted": promoted, "unfinished": of_unfinished, **now}


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
    changed = f"{len(new)} new or changed units ({rows:,} rows)"
    lines = [f"since {name}: {changed if new or gone or lacking else 'nothing new'}"]
    if gone:
        lines.append(f"  {most}{gone} units are no longer in the corpus")
    if unread:
        lines.append(f"  {unread} units are in new or changed files: a run reads them, scores what is new")
    lines += [f"  {name}: {most}{number} units are not scored" for name, number in lacking.items()]
    return {"lines": lines, "new_units": len(new), "new_rows": rows, "gone_units": gone, "lacking": lacking}

"""`mapjob status`: the runs of an output folder, and what is new or missing since the newest."""

import json
from typing import Annotated, Any

import typer

from mapjob.cli.options import Json
from mapjob.config import parse_config
from mapjob.errors import MapjobError
from mapjob.escaping import one_line
from mapjob.job.prepare import prepare
from mapjob.store.output import Output
from mapjob.store.run_folder import Manifest


def status(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The output.path of a run file.")],
    as_json: Json = False,
) -> None:
    """List the finished and unfinished runs of an output folder, and what has changed since the newest.

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
    for run_id in unfinished:
        print(f"unfinished            {one_line(run_id)}: run its run file again to complete or replace it")
    now = _since(manifests[-1]) if manifests else {}
    for line in now.pop("lines", ["no run has finished here"] if not manifests else []):
        print(one_line(line))
    if as_json:
        print(json.dumps({"runs": [m["run_id"] for m in manifests], "unfinished": unfinished, **now}))


def _since(newest: Manifest) -> dict[str, Any]:
    """What is in the corpus and the score store now, compared with the newest run: numbers, and `lines` for people."""
    try:
        job = prepare(parse_config(newest["config"]), newest["limit"])
    except MapjobError as error:
        return {"lines": [f"the newest run cannot be planned again: {error.what} ({error.where})"]}
    then, now = set(newest["units"]), {unit.id for unit in job.plan.units}
    new = [unit for unit in job.plan.units if unit.id not in then]
    lacking = {name: number for name, number in job.lacking().items() if number}
    gone = len(then - now)
    rows = sum(unit.num_rows for unit in new)
    lines = [
        f"since the newest run: {len(new)} new units ({rows:,} rows) to score, {gone} units no longer in the corpus"
    ]
    lines += [f"  {name}: {number} of {len(now)} units are not scored" for name, number in lacking.items()]
    if not new and then == now and not lacking:
        lines = ["since the newest run: nothing new"]
    return {"lines": lines, "new_units": len(new), "new_rows": rows, "gone_units": gone, "lacking": lacking}

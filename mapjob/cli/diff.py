"""`mapjob diff`: how two selections differ."""

from dataclasses import asdict

from mapjob.cli.options import Result, Run
from mapjob.escaping import one_line, wrap
from mapjob.report.diff import compare, diff_text
from mapjob.store.run_folder import describe_run, open_run


def diff(old: Run, new: Run) -> Result:
    """Compare two selections: pairs that entered, left and moved, in total and per group.

    Example: mapjob diff runs/demo/runs/map-0123456789abcdef runs/demo
    """
    runs = open_run(old), open_run(new)
    difference = compare(*runs)
    for side, run in zip(("old", "new"), runs):
        print(wrap(f"{side}        {one_line(describe_run(run.manifest))}"))
    print(wrap(diff_text(difference)))
    ids = {side: run.folder.run_id for side, run in zip(("old", "new"), runs)}
    return {**ids, **asdict(difference), "jaccard": difference.jaccard}

"""`mapjob diff`: how two selections differ."""

from dataclasses import asdict

from mapjob.cli.options import Result, Run
from mapjob.report.diff import compare, diff_text
from mapjob.store.run_folder import open_run


def diff(old: Run, new: Run) -> Result:
    """Compare two selections: pairs that entered, left and moved, in total and per group.

    Example: mapjob diff runs/demo/runs/map-0123456789abcdef runs/demo
    """
    difference = compare(open_run(old), open_run(new))
    print(diff_text(difference))
    return {**asdict(difference), "jaccard": difference.jaccard}

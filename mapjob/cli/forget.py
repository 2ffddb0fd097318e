"""`mapjob forget`: rows leave an output, with their texts, ids and scores."""

from typing import Annotated

from typer import Argument, Option

from mapjob.cli.options import Result, confirm
from mapjob.corpus.ids import read_ids
from mapjob.errors import ConfigError
from mapjob.escaping import one_line


def forget(
    output: Annotated[str, Argument(metavar="OUTPUT", help="The output.path of a run file.")],
    ids: Annotated[
        str | None,
        Option(
            metavar="FILE", help="A file of pair_ids: one per line, or CSV, JSONL or Parquet with a column pair_id."
        ),
    ] = None,
    source: Annotated[
        str | None,
        Option(metavar="FILE", help="A file of the corpus, by its URL or its name in errors/: all its rows."),
    ] = None,
    yes: Annotated[bool, Option("--yes", help="Do it without asking.")] = False,
) -> Result:
    """Take rows out of every run, score file, pack and cache of an output: their texts, ids and scores.

    It lists what it will do, and asks. Runs that held the rows are marked, and no longer load as whole; `mapjob run`
    makes a new one, and scores nothing again. The corpus is not touched: take the rows out of it too. Do not run it
    beside a run.

    Example: mapjob forget runs/demo --ids leaving.txt
    """
    from mapjob.job.forget import find_leaving  # slow to import
    from mapjob.job.forget import forget as forget_rows

    if (ids is None) == (source is None):
        raise ConfigError("say which rows are to leave", "mapjob forget", "give either --ids FILE or --source FILE")
    wanted = set() if ids is None else read_ids(ids)
    if ids is not None and not wanted:
        raise ConfigError("this file lists no id", ids, "give one pair_id per line")
    leaving = find_leaving(output, wanted, source)
    if leaving.unknown:
        print(f"{leaving.unknown:,} of {len(wanted):,} ids are of no row that was read here")
    if leaving.is_empty:
        print("nothing to forget")
        return {"rows": 0, "unknown": leaving.unknown, "runs": []}
    print(f"{leaving.num_rows:,} rows in {len(leaving.rows):,} units leave {one_line(leaving.output)}")
    for of in leaving.runs:
        rows = (
            ", ".join(f"{num} of {name.partition('/')[0]}" for name, num in of.tables.items()) or "only their numbers"
        )
        print(f"  run {one_line(of.run.folder.run_id)}: {rows}; {of.loss['selected']:,} selected pairs are left")
    print(f"  {len(leaving.files):,} score files and {len(leaving.packs):,} packs are rewritten")
    for name in leaving.names:
        print(f"  {one_line(name)} is removed")
    if leaving.heads:
        print("  first rows of files leave plans/")
    result = {"rows": leaving.num_rows, "unknown": leaving.unknown}
    if not (yes or confirm("rewrite these files?")):
        return {**result, "runs": []}
    forget_rows(leaving)
    print("forgotten; the rows are still in the corpus if you did not take them out of it")
    return {**result, "runs": [of.run.folder.run_id for of in leaving.runs]}

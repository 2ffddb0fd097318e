"""`mapjob review`: pairs that a person should look at, as a file for the tool that they look with."""

from typing import Annotated, Literal

from typer import Option

from mapjob.cli.options import Result, Run
from mapjob.errors import ConfigError
from mapjob.escaping import one_line
from mapjob.report.review import FORMATS, write_review
from mapjob.store.run_folder import open_run


def review(
    run: Run,
    to: Annotated[
        Literal["csv", "jsonl", "argilla", "label-studio"], Option(help="The tool that people look with.")
    ] = "csv",
    contradicted: Annotated[
        bool, Option("--contradicted", help="Pairs whose label the reward model contradicts, the surest first.")
    ] = False,
    near_cut: Annotated[
        bool, Option("--near-cut", help="Pairs that are ranked next to the last one that is selected.")
    ] = False,
    top: Annotated[int | None, Option(min=1, metavar="N", help="The N pairs that are ranked first.")] = None,
    rows: Annotated[int, Option(min=1, metavar="N", help="At most so many pairs.")] = 100,
    out: Annotated[
        str | None, Option(metavar="FILE", help="What is written; by default review-<run id> in this folder.")
    ] = None,
) -> Result:
    """Write pairs for people to look at: texts, margins, scores, rank, and an empty field `verdict`.

    The answers are keep (chosen is the better one), swap (rejected is) and drop (learn from neither); `mapjob verdicts`
    takes them back. Sides are as the corpus has them; pairs that have a verdict are left out.

    Example: mapjob review runs/demo --contradicted --rows 200 --to label-studio
    """
    from mapjob.job.review import find_for_review  # slow to import

    if contradicted + near_cut + (top is not None) != 1:
        raise ConfigError("say which pairs", "mapjob review", "give one of --contradicted, --near-cut, --top N")
    manifest = open_run(run).manifest
    kind = "contradicted" if contradicted else "near_cut" if near_cut else "top"
    pairs = find_for_review(manifest, kind, top or rows)
    written = write_review(pairs, to, out or f"review-{manifest['run_id']}{FORMATS[to][0]}")
    print(f"{len(pairs):,} pairs to look at: {', '.join(map(one_line, written))}")
    print("then: mapjob verdicts FILE --out verdicts.parquet, and selection.verdicts in the run file")
    return {"rows": len(pairs), "files": written}

"""`mapjob verdicts`: the answers of people, from the files of their tools to the one that a run reads."""

from collections import Counter
from typing import Annotated

from typer import Argument, Option

from mapjob.cli.options import Result
from mapjob.escaping import one_line
from mapjob.report.review import gather_answers
from mapjob.selection.decisions import ANSWERS


def verdicts(
    files: Annotated[
        list[str],
        Argument(
            metavar="FILE...",
            help="Files that `mapjob review` wrote, with answers; an export of Argilla (its folder or records.json) or "
            "of Label Studio (JSON); or any CSV, JSONL or Parquet with columns pair_id and verdict.",
        ),
    ],
    out: Annotated[str, Option(metavar="FILE", help="What selection.verdicts reads: .parquet, .csv or .jsonl.")],
) -> Result:
    """Take the answers of people back: one file of pair_id and verdict for `selection.verdicts`.

    An answer that is none of swap, drop and keep, and two answers to one pair that differ, are refused by file and row.
    --out may be one of the files, which then grows.

    Example: mapjob verdicts verdicts.parquet review-map-1a2b.csv --out verdicts.parquet
    """
    answers, num_empty = gather_answers(files, out)
    counts = Counter(answers.values())
    print(", ".join(f"{counts[answer]:,} {answer}" for answer in ANSWERS) + f"; {num_empty:,} rows without an answer")
    print(f"verdicts: {one_line(out)}")
    return {"file": out, **{answer: counts[answer] for answer in ANSWERS}, "without_answer": num_empty}

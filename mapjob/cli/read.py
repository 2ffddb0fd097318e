"""`mapjob read`: how the corpus is read. No model is loaded."""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

from typer import Option

from mapjob.cli.options import ConfigFile, Overrides
from mapjob.config.load import parse_config, read_tree
from mapjob.config.run import Config
from mapjob.corpus.plan import Corpus, Plan, describe_plan, make_plan, read_unit
from mapjob.corpus.reader import RowReader, read_records
from mapjob.corpus.reading import as_chat
from mapjob.corpus.records import Record, Text, plain_text
from mapjob.errors import RowError
from mapjob.escaping import for_terminal, one_line, wrap

ROWS_AT_ONCE = 2_000
LOOKED_AT = 2_000  # rows whose reasons are counted for people
LONGEST = 400  # characters of a text that are shown


def read(
    config: ConfigFile,
    overrides: Overrides = None,
    rows: Annotated[int | None, Option(min=0, help="Number of rows to show. Default: 3; with --json all.")] = None,
    json_rows: Annotated[bool, Option("--json", help="Print one JSON object per row of the corpus.")] = False,
) -> None:
    """Show how the corpus is read: the reading as YAML to paste, and its first rows, or why a row cannot be read.

    Example: mapjob read configs/single_gpu.yaml --rows 5
    """
    with tempfile.TemporaryDirectory() as folder:
        run_file = _parse(read_tree(config, overrides or ()), folder, config)
        plan = make_plan(run_file.input, True, ROWS_AT_ONCE, output=run_file.output.path)
        for line in describe_plan(plan):
            print(wrap(one_line(line)), file=sys.stderr if json_rows else sys.stdout)
        if json_rows:
            for row in islice(_rows(plan), rows):
                print(json.dumps(_as_json(*row, plan.corpus), ensure_ascii=False, default=str))
        else:
            _print(plan, 3 if rows is None else rows)


def _parse(tree: dict[str, Any], folder: str, where: str) -> Config:
    """The run file, which needs neither models nor an output here."""
    nowhere = {"path": folder}
    return parse_config({"models": {"policy": nowhere, "reward": nowhere}, "output": nowhere, **tree}, where)


def _rows(plan: Plan) -> Iterator[tuple[str, int, Record | RowError]]:
    """(file, row in it, what is read) for each row of the corpus, in reading order."""
    reader = RowReader(plan.corpus.own_columns)
    for unit in plan.units:
        records = read_records(read_unit(unit, reader), plan.corpus.reading, plan.corpus.columns)
        yield from ((unit.name, unit.start + index, record) for index, record in enumerate(records))


def _as_json(file: str, row: int, record: Record | RowError, corpus: Corpus) -> dict[str, Any]:
    address = {"file": file, "row": row}
    if isinstance(record, RowError):
        return {**address, "reason": record.reason.value, "detail": record.detail}
    prompt, completions = _texts(record, corpus)
    if corpus.reading.gives_candidates:
        return {**address, "prompt": prompt, "candidates": [_alone(completion) for completion in completions]}
    return {**address, "prompt": prompt, "chosen": completions[0], "rejected": completions[1]}


def _texts(record: Record, corpus: Corpus) -> tuple[Text, list[Text]]:
    shown = as_chat(record) if corpus.style == "chat" else record
    return shown.prompt, shown.completions


def _alone(completion: Text) -> Text:
    """The text of an answer that is one turn with nothing but text; any other answer as it is."""
    is_plain = len(completion) == 1 and not isinstance(completion, str) and completion[0].keys() == {"role", "content"}
    return completion[0]["content"] if is_plain else completion


def _print(plan: Plan, num_rows: int) -> None:
    reasons: Counter[str] = Counter()
    for index, (file, row, record) in enumerate(islice(_rows(plan), max(LOOKED_AT, num_rows))):
        if index < num_rows:
            print(f"\n{one_line(file)}, row {row}")
            for line in _lines(record, plan.corpus):
                print(wrap(f"  {for_terminal(line)}"))
        if isinstance(record, RowError):
            reasons[record.reason.value] += 1
    looked_at = min(plan.num_rows, max(LOOKED_AT, num_rows))
    print(f"\nof the first {looked_at:,} rows {looked_at - sum(reasons.values()):,} are read")
    for reason, number in reasons.most_common():
        print(f"  {reason:<24}{number:>10,}")


def _lines(record: Record | RowError, corpus: Corpus) -> Iterator[str]:
    if isinstance(record, RowError):
        yield f"{record.reason.value}: {record.detail or record.reason.explanation}"
        return
    prompt, completions = _texts(record, corpus)
    names = ["chosen", "rejected"]
    if corpus.reading.gives_candidates:
        names = [f"answer {index}" for index in range(len(completions))]
    for name, text in zip(["prompt", *names], [prompt, *completions]):
        shown = plain_text(text, with_roles=True)
        yield f"{name:<9} {one_line(shown if len(shown) <= LONGEST else shown[:LONGEST] + ' …')}"

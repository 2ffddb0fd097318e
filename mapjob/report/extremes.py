"""The best and the worst pairs of a ranking, side by side, for a person to judge the metric by."""

from typing import Any

from rich.console import Console
from rich.table import Table

from mapjob.corpus.plan import Plan
from mapjob.corpus.reader import read_records, read_rows
from mapjob.corpus.records import Record, Text
from mapjob.ranking.select import Ranking

TEXT_CHARACTERS = 200


def extremes_table(plan: Plan, ranking: Ranking, metric: str, number: int = 6) -> Table:
    """The first and last `number` pairs of the ranking with both margins, as a rich table."""
    table = Table(title=f"best and worst pairs by {metric}", show_lines=True)
    for name in ("rank", metric, "reward\nmargin", "implicit\nmargin"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("prompt", "chosen", "rejected"):
        table.add_column(name, ratio=1)
    num = min(number, len(ranking.order) // 2)
    places = [*range(num), *range(len(ranking.order) - num, len(ranking.order))]
    for place in places:
        index = int(ranking.order[place])
        record = _record(plan, int(ranking.pairs.position[index]))
        chosen, rejected = int(ranking.pairs.chosen[index]), int(ranking.pairs.rejected[index])
        texts = (record.prompt, record.completions[chosen], record.completions[rejected])
        numbers = (ranking.score[index], ranking.reward_margin[index], ranking.implicit_margin[index])
        cells = [f"{place + 1:,}", *(f"{value:+.2f}" for value in numbers), *map(_short, texts)]
        table.add_row(*cells, end_section=place == num - 1)
    return table


def print_extremes(plan: Plan, ranking: Ranking, metric: str) -> None:
    # Without a terminal to ask, 120 columns keep the texts readable in logs.
    console = Console() if Console().is_terminal else Console(width=120)
    console.print(extremes_table(plan, ranking, metric))


def _record(plan: Plan, position: int) -> Record:
    file, row = plan.locate(position)
    table = read_rows(file, row, row + 1, plan.corpus.text_columns)
    record: Any = read_records(table, plan.corpus.spec, plan.corpus.columns)[0]
    assert isinstance(record, Record), "only rows that were read as records are ranked"
    return record


def _short(text: Text) -> str:
    flat = text if isinstance(text, str) else " ".join(turn["content"] for turn in text)
    # Square brackets would be read as markup.
    flat = flat.replace("[", r"\[")
    return flat if len(flat) <= TEXT_CHARACTERS else flat[: TEXT_CHARACTERS - 1] + "…"

"""The demo: its run file, what became of the flipped labels, and the best and the worst pairs side by side."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from mapjob.corpus.plan import Plan
from mapjob.corpus.reader import read_rows
from mapjob.corpus.records import Text, plain_text
from mapjob.escaping import for_terminal
from mapjob.lab.world.corpus import FLIPPED
from mapjob.ranking.rank import Ranking

TEXT_CHARACTERS = 200
TEXTS = ("prompt", "chosen", "rejected")
TEMPLATE = """\
# The demo's run: rank the synthetic pairs by alignment potential and keep the best 40 %.
# Select again from the same scores:  mapjob rank {folder}/run.yaml --set selection.metric=map_signed
input:
  path: {folder}/world/corpus        # Parquet shards with prompt, chosen, rejected
  columns: {{group: group}}            # the column that reports group by
output:
  path: {folder}/output              # scores/ (reused by the next run) and runs/ (the selections)
models:
  policy: {{path: {folder}/world/policy, dtype: float32}}
  reward: {{path: {folder}/world/reward, dtype: float32}}
scoring:
  max_length: 256                 # tokens of prompt and completion; longer pairs are dropped and counted
selection:
  metric: map                     # how much of the reward margin the policy has not learned yet
  implicit: simpo                 # the policy's margin: difference in mean log-probability per token
  scale: zscore                   # both margins in standard deviations of this corpus
  alpha: 1.0                      # weight of the implicit margin
  keep: {{ratio: 0.4}}
"""


def write_run_file(folder: Path) -> Path:
    """Write `<folder>/run.yaml` for the world in `<folder>/world`; returns its path."""
    path = folder / "run.yaml"
    path.write_text(TEMPLATE.format(folder=folder), encoding="utf-8")
    return path


def flips_line(plan: Plan, ranking: Ranking) -> str:
    """Share of flipped labels among ranked and selected pairs, and how many of them the reward model contradicts."""
    column = pa.concat_tables([read_rows(unit.file, unit.start, unit.stop, [FLIPPED]) for unit in plan.units])
    flipped = column[FLIPPED].to_numpy()[ranking.pairs.position]
    contradicted = (ranking.reward_margin < 0)[flipped]
    return (
        f"flipped labels: {flipped.mean():.1%} of the ranked, {flipped[ranking.kept].mean():.1%} of the selected; the "
        f"reward model contradicts {contradicted.mean():.0%} of them (MAP is blind to labels, map_signed is not)"
    )


def print_extremes(rows: list[dict[str, Any]], metric: str) -> None:
    """Print rows of a selection as a table: the first half is the best pairs, the other half the worst."""
    table = Table(title=f"best and worst pairs by {metric}", show_lines=True)
    for name in ("rank", metric, "reward\nmargin", "implicit\nmargin"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in TEXTS:
        table.add_column(name, ratio=1)
    for index, row in enumerate(rows):
        numbers = (row["map_score" if metric == "map" else metric], row["reward_margin"], row["implicit_margin"])
        cells = [f"{row['rank']:,}", *(f"{value:+.2f}" for value in numbers), *(_short(row[name]) for name in TEXTS)]
        table.add_row(*cells, end_section=index == len(rows) // 2 - 1)
    # Without a terminal, 120 columns keep the texts readable in logs.
    console = Console() if Console().is_terminal else Console(width=120)
    console.print(table)


def _short(text: Text) -> str:
    flat = plain_text(text)
    flat = for_terminal(flat if len(flat) <= TEXT_CHARACTERS else flat[: TEXT_CHARACTERS - 1] + "…")
    # Square brackets would be read as rich's markup.
    return flat.replace("[", r"\[")

"""The demo's run file: written beside the world, so that every next command has something to start from."""

from pathlib import Path

TEMPLATE = """\
# The demo's run: rank the made pairs by alignment potential and keep the best 40 %.
# Try another selection from the same scores:  mapjob rank {folder}/run.yaml --set selection.metric=map_signed
input:
  path: {folder}/world/corpus        # Parquet shards with prompt, chosen, rejected
  columns: {{group: group}}            # the column that reports go by
output:
  path: {folder}/output              # scores/ (kept for the next run) and runs/ (the selections)
models:
  policy: {{path: {folder}/world/policy, dtype: float32}}
  reward: {{path: {folder}/world/reward, dtype: float32}}
scoring:
  max_length: 256                 # tokens of prompt and completion; longer pairs are dropped and counted
selection:
  metric: map                     # |reward margin| that the policy does not express yet
  implicit: simpo                 # the policy's margin: difference in mean log-probability a token
  scale: zscore                   # both margins in standard deviations of this corpus
  alpha: 1.0                      # weight of the implicit margin
  keep: {{ratio: 0.4}}
"""


def write_run_file(folder: Path) -> Path:
    """Write `<folder>/run.yaml` for the world in `<folder>/world`; returns its path."""
    path = folder / "run.yaml"
    path.write_text(TEMPLATE.format(folder=folder), encoding="utf-8")
    return path

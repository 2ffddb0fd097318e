"""The dataset card of a run folder: what it is, how it was chosen, how to load and train on it."""

import json
from typing import Any

from mapjob.inert import in_markdown

FRONT_MATTER = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: selected/*.parquet
tags:
- preference
- mapjob
---
"""

FORMULAS = {
    "map": "S_r * |reward_margin| - alpha * S_i * |implicit_margin|",
    "map_signed": "S_r * reward_margin - alpha * S_i * |implicit_margin|",
    "map_unregularised": "S_r * reward_margin - alpha * S_i * implicit_margin",
    "explicit": "|reward_margin|",
    "implicit_small": "-|implicit_margin|",
    "implicit_large": "|implicit_margin|",
    "bees": "p_r * p_i / (p_r * p_i + (1 - p_r) * (1 - p_i)), p the clipped and scaled margins (BeeS)",
    "difficulty_gap": "-implicit_margin",
    "beta_dpo_weight": "exp(-z^2 / 2), z the standardised implicit_margin",
    "random": "a seeded random number",
}


def card(manifest: dict[str, Any]) -> str:
    """README.md of a run folder. Made of the manifest's results alone, so that a repeated run writes the same bytes."""
    config, counts, statistics = manifest["config"], manifest["counts"], manifest["statistics"]
    selection = config["selection"]
    scale = statistics["scale"]
    models = "\n".join(
        f"| {name} | {in_markdown(m['path'])} | {m['dtype']} |" for name, m in config["models"].items() if m
    )
    reasons = (
        "\n".join(f"| {reason} | {number:,} |" for reason, number in counts["by_reason"].items()) or "| none | 0 |"
    )
    cut_off = statistics["cut_off"]
    keep = json.dumps({rule: value for rule, value in selection["keep"].items() if value is not None})
    return f"""{FRONT_MATTER}
# {counts["selected"]:,} of {counts["rows"]:,} preference pairs, ranked by `{selection["metric"]}`

`selected/` holds the pairs in rank order (rank 1 first) in the layout that TRL reads: prompt, chosen, rejected
({manifest["corpus"]["style"]}), then the corpus's own columns, then the scores.

score = {FORMULAS[selection["metric"]]}

alpha = {selection["alpha"]:g}, S_r = {scale["reward"]:.6g}, S_i = {scale["implicit"]:.6g} ({selection["scale"]}),
implicit margin = {selection["implicit"]}, keep = {keep};
the last kept pair scores {"none" if cut_off is None else f"{cut_off:.6g}"}.

| model | path | dtype |
| --- | --- | --- |
{models}

| rows | number |
| --- | --- |
| read | {counts["rows"]:,} |
| ranked | {counts["ranked"]:,} |
| selected | {counts["selected"]:,} |
| dropped by a rule | {counts["dropped"]:,} |
| broken | {counts["broken"]:,} |
| ranked, label against the reward model | {counts["label_disagreements"]:,} |

Rows that were not ranked are in `errors/` with their file, row and reason:

| reason | rows |
| --- | --- |
{reasons}

```python
from datasets import load_dataset

selected = load_dataset("this folder", split="train")
```
"""

"""The dataset card of a run folder: what it is, how it was chosen, how to load and train on it."""

import json
import re

from mapjob.config.load import parse_config
from mapjob.config.run import OutputFormat
from mapjob.corpus.plan import Style
from mapjob.escaping import markdown_code
from mapjob.metrics.table import METRICS
from mapjob.store.run_folder import Manifest

FRONT_MATTER = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: selected/*.parquet
{held_out}tags:
- preference
- mapjob
---
"""

HELD_OUT = """- config_name: held_out
  data_files:
  - split: test
    path: held_out/*.parquet
"""

CONTENTS = {
    "trl": "prompt, chosen and rejected as TRL reads them, then the corpus's own columns, then the scores",
    "openrlhf": "chosen and rejected as OpenRLHF reads them, then the corpus's own columns, then the scores",
    "llama_factory": "the texts as LLaMA-Factory reads them, then the corpus's own columns, then the scores",
    "columns": "the corpus's own columns, unchanged, then the scores; `chosen_index` and `rejected_index` say which "
    "completions of a row form the pair",
}
LOAD = """from datasets import load_dataset
{more}
selected = load_dataset("this folder", split="train")"""
TRAIN = '\nDPOTrainer("the policy", train_dataset=selected).train()'


def training_code(output_format: OutputFormat, style: Style) -> list[tuple[str, str]]:
    """(language, code): what loads the selection, and, except for `columns`, trains on it."""
    if output_format == "trl":
        return [("python", LOAD.format(more="from trl import DPOTrainer\n") + TRAIN)]
    load = ("python", LOAD.format(more=""))
    if output_format == "openrlhf":
        option = "--data.apply_chat_template" if style == "chat" else "--data.prompt_key prompt"
        return [load, ("bash", f'deepspeed --module openrlhf.cli.train_dpo --data.dataset "this folder" {option}')]
    if output_format == "llama_factory":
        template = '"that of the policy"' if style == "chat" else "empty  # it writes no EOS behind a completion"
        command = 'llamafactory-cli train --stage dpo --dataset_dir "this folder" --dataset selected --template'
        return [load, ("bash", f"{command} {template}")]
    return [load]


def formula(metric: str) -> str:
    """A metric in the names of columns: what `mapjob rank --list` says of it before the colon."""
    names = {"h": "reward_margin", "implicit": "implicit_margin", "g": "dpo_margin"}
    return re.sub(r"\b(h|implicit|g)\b", lambda match: names[match[0]], METRICS[metric].about.split(": ")[0])


def card(manifest: Manifest) -> str:
    """README.md of a run folder. Made of the manifest's results alone, so that a repeated run writes the same bytes."""
    config, counts, style = parse_config(manifest["config"]), manifest["counts"], manifest["corpus"]["style"]
    selection, output_format = config.selection, config.output_format
    scale, cut_off = manifest["statistics"]["scale"], manifest["statistics"]["cut_off"]
    models = "\n".join(
        f"| {name} | {markdown_code(model.path)} | {model.dtype} |"
        for name, model in config.models.by_scorer.items()
        if model is not None
    )
    reasons = "\n".join(f"| {reason} | {number:,} |" for reason, number in (counts["by_reason"] or {"none": 0}).items())
    blocks = [f"```{language}\n{code}\n```" for language, code in training_code(output_format, style)]
    if selection.held_out:
        reading = '`load_dataset("this folder", "held_out")`'
        blocks.append(f"The pairs of the held-out prompts, none of which is in `selected/`: {reading}.")
    if days := {model["encoding"].get("template_date") for model in manifest["models"].values()} - {None}:
        blocks.append(
            f"Chat templates that ask for the date saw {min(days)} (`input.template_date`) when the pairs were scored. "
            "A trainer shows them the day on which it runs."
        )
    loading = "\n\n".join(blocks)
    words = [f"{key} {markdown_code(manifest[key])}" for key in ("name", "note") if manifest.get(key)]
    called = f"Run: {', '.join(words)}.\n\n" if words else ""
    return f"""{FRONT_MATTER.format(held_out=HELD_OUT if selection.held_out else "")}
# {counts["selected"]:,} of {counts["rows"]:,} preference pairs, ranked by `{selection.metric}`

{called}`selected/` holds the pairs in rank order (rank 1 first), read as {style}: {CONTENTS[output_format]}.

score = {formula(selection.metric)}

alpha = {selection.alpha:g}, S_r = {scale["reward"]:.6g}, S_i = {scale["implicit"]:.6g} ({selection.scale}),
implicit margin = {selection.implicit}, keep = {json.dumps(selection.keep.model_dump(exclude_none=True))};
the last kept pair scores {"none" if cut_off is None else f"{cut_off:.6g}"}.

| model | path | dtype |
| --- | --- | --- |
{models}

| rows | number |
| --- | --- |
| read | {counts["rows"]:,} |
| ranked | {counts["ranked"]:,} |
| selected | {counts["selected"]:,} |
| held out | {counts["held_out"]:,} |
| dropped by a rule | {counts["dropped"]:,} |
| broken | {counts["broken"]:,} |
| ranked, reward model disagrees with the label | {counts["label_disagreements"]:,} |

Rows that were not ranked are in `errors/` with their file, row and reason:

| reason | rows |
| --- | --- |
{reasons}

{loading}
"""

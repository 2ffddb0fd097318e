"""A validation for people: its tables as text, which is also Markdown's preformatted block."""

import textwrap
from typing import Any

from mapjob.escaping import one_line
from mapjob.lab.training.losses import needs_reference
from mapjob.lab.validation.verdict import name_of

Rows = list[dict[str, Any]]
Columns = tuple[tuple[str, str, str, str], ...]  # title, alignment and width, key of the value, its format

SELECTION: Columns = (("selection", "<22", "name", ""), ("keep", ">5", "ratio", "g"))
COST: Columns = (
    ("pairs", ">7", "pairs", ",.0f"),
    ("steps", ">6", "steps", ".0f"),
    ("n", ">3", "seeds", ".0f"),
    ("s", ">6", "cpu_seconds", ".0f"),
)
ANSWERS = {  # statistic of a row: title
    "right": "right",
    "right_probability": "P(right)",
    "reason": "reasons",
    "reward": "reward",
    "answer_tokens": "tokens",
}
ORDER = {
    "gold_accuracy": "right answers",
    "label_accuracy": "labels",
    "reward_model_accuracy": "reward model",
}
GAINS = {
    "right": "right",
    "right_probability": "P(right)",
    "win_over_random": "wins",
    "label_accuracy": "label accuracy",
    "reward_model_accuracy": "rm accuracy",
}
MOST_GAINS = 3
WIDTH = 100
LEGEND = """
right: share of held-out prompts whose greedy answer is right; P(right): the probability of all
wordings of the right answer; both without the hopeless kind. reasons: share of answers with a
reason. reward: of the answers. n: trainings; s: processor seconds of one."""
OVER_LEGEND = """
wins: how often an answer has more reward than that of the random subset's training, less a half."""
OTHER_MARGIN = """
The recipe trains {objective}, whose own margin, the log-ratio gap to the policy before training, is 0
for every pair then. Selections go by another one, the difference in mean log-probability per token
(run.selection.implicit: simpo)."""
NOISE: Columns = (
    ("auroc", ">8", "auroc", ".3f"),
    ("flipped", ">9", "flipped", ".1%"),
    ("selected", ">10", "selected", ".1%"),
    ("moved", ">10", "moved", ".2g"),
)
NOISE_LEGEND = """
auroc: chance that a wrong label has a lower score than a right one. flipped, selected: share of
wrong labels among all pairs and in the selection. moved: largest change of any pair's score when
the wrong labels are flipped."""
DISTURBED: Columns = (
    ("", ">2", "", ""),
    ("disturbance", "<12", "disturbance", ""),
    ("same", ">7", "same", ".3f"),
    ("gap", ">7", "length_gap", ".1f"),
    ("longer", ">9", "longer_preferred", ".1%"),
)
DISTURBED_LEGEND = """
same: Jaccard overlap with the undisturbed selection. gap: mean difference in tokens of a selected
pair's two sides. longer: share of selected pairs whose longer side has the higher reward. Sizes are
in standard deviations."""


def as_text(result: dict[str, Any]) -> str:
    """The verdict, and every table of a validation, of at most 100 columns."""
    rows = result["rows"]
    parts = [*(line for sentence in result["verdict"] for line in textwrap.wrap(sentence, WIDTH)), ""]
    parts += [_table(rows, SELECTION + COST + _means(rows[0], ANSWERS)), LEGEND]
    config = result["config"]
    if (
        needs_reference(objective := config["recipe"]["objective"])
        and config["run"]["selection"]["implicit"] == "simpo"
    ):
        parts.append(OTHER_MARGIN.format(objective=objective))
    title = "Share of held-out pairs that the implicit reward puts in the order of:"
    parts += ["", title, _table(rows, SELECTION + _means(rows[0], ORDER))]
    if "right_by_group" in rows[0]:
        groups = tuple((name[:11], ">12", name, ".3f") for name in rows[0]["right_by_group"])
        flat = [row | row["right_by_group"] for row in rows]
        parts += ["", "Right answers by group of prompts:", _table(flat, SELECTION + groups)]
    if over := [row | row["over_random"] for row in rows if "over_random" in row]:
        gains = tuple((title, ">24", key, "+") for key, title in GAINS.items() if key in over[0])[:MOST_GAINS]
        between = f"{result['worlds']} worlds" if result["worlds"] > 1 else "prompts and trainings"
        title = f"Over random subsets of the same size, with 95 % intervals over {between}:"
        parts += ["", title, _table(over, SELECTION + gains), OVER_LEGEND]
    if result["label_noise"]:
        parts += ["", "Wrong labels:", _table(result["label_noise"], SELECTION + NOISE), NOISE_LEGEND]
    if result["disturbed"]:
        parts += ["", "Disturbed rewards:", _table(result["disturbed"], SELECTION + DISTURBED), DISTURBED_LEGEND]
    minutes = sum(row["seeds"] * row.get("cpu_seconds", 0) * row.get("worlds", 1) for row in rows) / 60
    parts += ["", f"All trainings: {minutes:.1f} processor minutes."]
    if result["refused"]:
        left_out = [textwrap.wrap(one_line(f"{name}: {why}"), WIDTH) for name, why in result["refused"].items()]
        parts += ["", "Left out:", *(line for lines in left_out for line in lines)]
    return "\n".join(parts)


def _means(statistics: dict[str, Any], titles: dict[str, str]) -> Columns:
    return tuple((title, f">{len(title) + 3}", key, "") for key, title in titles.items() if key in statistics)


def _table(rows: Rows, columns: Columns) -> str:
    lines = ["".join(f"{title:{width}}" for title, width, _, _ in columns)]
    for row in rows:
        named = row | {"name": one_line(name_of(row | {"max_steps": None}))}
        lines.append("".join(f"{_cell(named.get(key), form):{width}}" for _, width, key, form in columns))
    return "\n".join(lines)


def _cell(value: Any, form: str) -> str:
    """Nothing if a row lacks the value; an estimate with its interval."""
    if value is None:
        return ""
    if isinstance(value, dict):
        interval = " ({low:{sign}.3f}, {high:{sign}.3f})" if form else ""
        return f"{{mean:{{sign}}.3f}}{interval}".format(sign=form, **value)
    return f"{value:{form}}"

"""A validation for people: its tables as text, which is also Markdown's preformatted block."""

from typing import Any

from mapjob.escaping import one_line

Rows = list[dict[str, Any]]
Columns = tuple[tuple[str, str, str, str], ...]  # title, alignment and width, key of the value, its format

SELECTION: Columns = (("selection", "<18", "name", ""), ("keep", ">5", "ratio", "g"))
COST: Columns = (("pairs", ">7", "pairs", ","), ("n", ">3", "seeds", ""), ("s", ">7", "cpu_seconds", ".0f"))
MEANS = {  # column of the table: statistic of a row
    "gold reward": "gold_reward",
    "gold accuracy": "gold_accuracy",
    "label accuracy": "label_accuracy",
    "rm accuracy": "reward_model_accuracy",
    "win rate": "win_rate",
    "same length": "length_controlled_win_rate",
}
LEGEND = """
Means over held-out prompts and trainings, with 95 % intervals (bootstrap over both). gold: against the right answers.
label, rm accuracy: implicit reward against the labels, and against the reward model. win rate: of answers over those of
the policy before training, by the reward model; same length: at equal length. s: processor seconds of one training."""
NOISE: Columns = (
    ("auroc", ">8", "auroc", ".3f"),
    ("flipped", ">9", "flipped", ".1%"),
    ("selected", ">10", "selected", ".1%"),
    ("moved", ">10", "moved", ".2g"),
)
NOISE_LEGEND = """
auroc: chance that a wrong label has a lower score than a right one. flipped, selected: share of wrong labels among all
pairs and in the selection. moved: largest change of any pair's score when the wrong labels are flipped."""
DISTURBED: Columns = (
    ("", ">2", "", ""),
    ("disturbance", "<12", "disturbance", ""),
    ("same", ">7", "same", ".3f"),
    ("gap", ">7", "length_gap", ".1f"),
    ("longer", ">9", "longer_preferred", ".1%"),
)
DISTURBED_LEGEND = """
same: Jaccard overlap with the undisturbed selection. gap: mean difference in tokens of a selected pair's two sides.
longer: share of selected pairs whose longer side has the higher reward. Sizes are in standard deviations."""


def as_text(result: dict[str, Any]) -> str:
    """Every table of a validation."""
    rows = result["rows"]
    parts = [_table(rows, SELECTION + COST + _means(rows[0], ">21", "")), LEGEND]
    if over := [row | row["over_random"] for row in rows if "over_random" in row]:
        table = _table(over, SELECTION + _means(over[0]["over_random"], ">24", "+"))
        parts += ["", "Over random subsets of the same size, on the same prompts:", table]
    if result["label_noise"]:
        parts += ["", "Wrong labels:", _table(result["label_noise"], SELECTION + NOISE), NOISE_LEGEND]
    if result["disturbed"]:
        parts += ["", "Disturbed rewards:", _table(result["disturbed"], SELECTION + DISTURBED), DISTURBED_LEGEND]
    return "\n".join(parts)


def _means(statistics: dict[str, Any], width: str, sign: str) -> Columns:
    return tuple((title, width, key, sign) for title, key in MEANS.items() if key in statistics)


def _table(rows: Rows, columns: Columns) -> str:
    lines = ["".join(f"{title:{width}}" for title, width, _, _ in columns)]
    for row in rows:
        alpha = "" if row.get("alpha") is None else f" {row['alpha']}"
        named = row | {"name": one_line(f"{row['metric']}{alpha}")}
        lines.append("".join(f"{_cell(named.get(key), form):{width}}" for _, width, key, form in columns))
    return "\n".join(lines)


def _cell(value: Any, form: str) -> str:
    """Nothing if a row lacks the value; an estimate with its interval."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return "{mean:{sign}.3f} ({low:{sign}.3f}, {high:{sign}.3f})".format(sign=form, **value)
    return f"{value:{form}}"

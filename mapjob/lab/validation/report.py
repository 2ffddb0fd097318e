"""A validation for people: its tables as text, which is also Markdown's preformatted block."""

from typing import Any

from mapjob.escaping import in_line

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
the policy as it was, by the reward model; same length: at equal length. s: processor seconds of one training."""


def as_text(result: dict[str, Any]) -> str:
    """Every table of a validation."""
    parts = [_main(result["rows"]), LEGEND]
    if over := _over_random(result["rows"]):
        parts += ["", "Over random subsets of the same size, on the same prompts:", over]
    if result["label_noise"]:
        parts += ["", "Wrong labels:", _label_noise(result["label_noise"]), NOISE_LEGEND]
    if result["disturbed"]:
        parts += ["", "Disturbed rewards:", _disturbed(result["disturbed"]), DISTURBED_LEGEND]
    return "\n".join(parts)


def _main(rows: list[dict[str, Any]]) -> str:
    names = [name for name, key in MEANS.items() if key in rows[0]]
    lines = [f"{'selection':<18}{'keep':>5}{'pairs':>7}{'n':>3}{'s':>7}" + "".join(f"{name:>21}" for name in names)]
    for row in rows:
        cells = "".join(f"{_interval(row[MEANS[name]]):>21}" for name in names)
        cost = f"{row['cpu_seconds']:.0f}" if "cpu_seconds" in row else ""
        keep = f"{row['ratio']:g}" if "ratio" in row else ""
        lines.append(f"{_name(row):<18}{keep:>5}{row['pairs']:>7,}{row['seeds']:>3}{cost:>7}{cells}")
    return "\n".join(lines)


def _over_random(rows: list[dict[str, Any]]) -> str:
    compared = [row for row in rows if "over_random" in row]
    if not compared:
        return ""
    names = [name for name, key in MEANS.items() if key in compared[0]["over_random"]]
    lines = [f"{'selection':<18}{'keep':>5}" + "".join(f"{name:>24}" for name in names)]
    for row in compared:
        cells = "".join(f"{_interval(row['over_random'][MEANS[name]], sign='+'):>24}" for name in names)
        lines.append(f"{_name(row):<18}{row['ratio']:>5g}{cells}")
    return "\n".join(lines)


NOISE_LEGEND = """
auroc: chance that a wrong label has a lower score than a right one. flipped, selected: share of wrong labels among all
pairs and in the selection. moved: largest change of any pair's score when the wrong labels are turned round."""


def _label_noise(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'selection':<18}{'keep':>5}{'auroc':>8}{'flipped':>9}{'selected':>10}{'moved':>10}"]
    for row in rows:
        cells = f"{row['auroc']:>8.3f}{row['flipped']:>9.1%}{row['selected']:>10.1%}{row['moved']:>10.2g}"
        lines.append(f"{_name(row):<18}{row['ratio']:>5g}{cells}")
    return "\n".join(lines)


DISTURBED_LEGEND = """
same: Jaccard overlap with the undisturbed selection. gap: mean difference in tokens of a selected pair's two sides.
longer: share of selected pairs whose longer side has the higher reward. Sizes are in standard deviations."""


def _disturbed(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'selection':<18}{'keep':>5}  {'disturbance':<12}{'same':>7}{'gap':>7}{'longer':>9}"]
    for row in rows:
        cells = f"{row['same']:>7.3f}{row['length_gap']:>7.1f}{row['longer_preferred']:>9.1%}"
        lines.append(f"{_name(row):<18}{row['ratio']:>5g}  {row['disturbance']:<12}{cells}")
    return "\n".join(lines)


def _name(row: dict[str, Any]) -> str:
    alpha = "" if row.get("alpha") is None else f" {row['alpha']}"
    return in_line(f"{row['metric']}{alpha}")


def _interval(estimate: dict[str, float], sign: str = "") -> str:
    return "{mean:{s}.3f} ({low:{s}.3f}, {high:{s}.3f})".format(s=sign, **estimate)

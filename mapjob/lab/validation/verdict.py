"""What a validation says in words: which selections help, or why this set-up cannot tell; and one picture of it."""

from collections.abc import Iterator
from typing import Any

from mapjob.lab.validation.table import CEILING, FULL, START
from mapjob.report import svg

Rows = list[dict[str, Any]]
PAYS_FOR_FORM = 0.5  # share of nearly right answers with a reason that a reward model puts above right ones without


def measure_of(rows: Rows) -> tuple[str, str]:
    """(the statistic that decides, what it is called): right answers, if they are known, else wins over random."""
    known = "right" in rows[0]
    return ("right", "right answers") if known else ("win_over_random", "wins over the random subset")


def verdict(rows: Rows, preference_for_form: float | None) -> list[str]:
    """Sentences: first whether anything can be told apart at all, then one for each selection.

    preference_for_form: in a known world, the share of nearly right answers with a reason that the reward model puts
    above right ones without.
    """
    sentences, (measure, words) = [], measure_of(rows)
    if preference_for_form is not None and preference_for_form > PAYS_FOR_FORM:
        sentences.append(
            f"The reward model pays for form: it puts a nearly right answer with a reason above the right one without "
            f"in {preference_for_form:.0%}. What is selected by it teaches form."
        )
    if why := _blind(rows):
        return [*sentences, f"This set-up cannot tell selections apart: {why}."]
    for row in (row for row in rows if "over_random" in row):
        gain, name = row["over_random"][measure], name_of(row)
        spread = f"{gain['mean']:+.3f} ({gain['low']:+.3f}, {gain['high']:+.3f})"
        if gain["low"] > 0:
            said = f"helps: {spread} {words}"
        elif gain["high"] < 0:
            said = f"does worse than random subsets: {spread} {words}"
        else:
            said = f"no difference from random subsets can be seen: {spread} {words}"
        sentences.append(f"{name}: {said}.")
    return sentences


def _blind(rows: Rows) -> str | None:
    """Why not even the most that training can bring is above the policy before training; None if it is."""
    by_name = {row["metric"]: row for row in rows}
    most = by_name.get(CEILING) or by_name.get(FULL)
    if most is None:
        return None
    what = "every pair with its right label" if most["metric"] == CEILING else "every pair"
    measure = "right" if "right" in rows[0] else "reward"
    words = {"right": "right answers", "reward": "the reward of the answers"}[measure]
    gain = most["over_start"][measure]
    if gain["low"] > 0:
        return None
    spread = f"{gain['mean']:+.3f} ({gain['low']:+.3f}, {gain['high']:+.3f})"
    return f"training on {what} does not raise {words} above the policy before training by more than chance, {spread}"


def name_of(row: dict[str, Any]) -> str:
    """A selection as tables call it."""
    alpha = "" if row.get("alpha") is None else f" {row['alpha']}"
    steps = "" if row.get("max_steps") is None else f", {row['max_steps']} steps"
    return f"{row['metric']}{alpha}{steps}"


LINE, LEFT, WIDTH = 22, 190, 560


def gains_figure(rows: Rows) -> bytes:
    """An SVG file: each selection's gain over random subsets, with its interval, of the measure that decides."""
    measure, words = measure_of(rows)
    gains = [(name_of(row), row["over_random"][measure]) for row in rows if "over_random" in row]
    gains += [(f"{row['metric']}, over {START}", row["over_start"]["right"]) for row in rows if _is_ceiling(row, rows)]
    low = min([0.0, *(gain["low"] for _, gain in gains)])
    high = max([0.01, *(gain["high"] for _, gain in gains)])
    height = LINE * len(gains) + 50
    axes = svg.Axes((low, high), (0, 1), LEFT, 24, WIDTH - 16, height - 26)
    label = f"{words} over random subsets of the same size, with 95 % intervals"
    return svg.svg_file(WIDTH, height, label, _draw(axes, gains, label))


def _is_ceiling(row: dict[str, Any], rows: Rows) -> bool:
    return row["metric"] == CEILING and measure_of(rows)[0] == "right"


def _draw(axes: svg.Axes, gains: list[tuple[str, dict[str, float]]], label: str) -> Iterator[str]:
    yield svg.text(label, (LEFT - 180, 14), anchor="start", colour="ink")
    zero = axes.at(0, 0)[0]
    yield svg.line([(zero, axes.top), (zero, axes.bottom)], "soft", 0.8, "zero")
    yield from axes.x_axis()
    for index, (name, gain) in enumerate(gains):
        y = axes.top + LINE * (index + 0.5)
        ends = [(axes.at(gain[end], 0)[0], y) for end in ("low", "high")]
        middle = axes.at(gain["mean"], 0)[0]
        yield svg.text(name, (LEFT - 8, y + 3.5), anchor="end")
        yield svg.line(ends, "ink", 1.4, "interval")
        yield svg.area(svg.box(middle - 3, y - 3, middle + 3, y + 3), "ink")

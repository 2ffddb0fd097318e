"""A sweep for people: a table of what every choice selects, and a figure of how much the choices agree."""

from typing import Any

from mapjob.escaping import one_line
from mapjob.ranking.compare import QUANTILES, Profile
from mapjob.ranking.sweep import Sweep
from mapjob.report import svg

WIDTHS = {"keep": 6, "pairs": 9, "against": 9, "tokens": 12, "groups": 8, "h": 9, "implicit": 10, "same": 7}
HEADER = f"{'selection':<28}" + "".join(f"{name:>{width}}" for name, width in WIDTHS.items())
LEGEND = """
against: share whose label the reward model contradicts. tokens: mean of chosen / rejected.
groups: drift of the groups' shares, 0 to 1. h, implicit: medians of the reward margin and of the implicit margin.
same: Jaccard overlap with the first selection of that share."""


def sweep_text(sweep: Sweep) -> str:
    """One line a choice; the first line is all ranked pairs."""
    lines = [HEADER, _line("all ranked", "", sweep.everything, 0.0, "")]
    first: dict[float, int] = {}
    for place, outcome in enumerate(sweep.outcomes):
        start = first.setdefault(outcome.choice.ratio, place)
        same = f"{sweep.jaccard[place, start]:.3f}"
        name = one_line(outcome.choice.name)
        lines.append(_line(name, f"{outcome.choice.ratio:g}", outcome.profile, outcome.group_drift, same))
    return "\n".join([*lines, LEGEND])


def _line(name: str, keep: str, of: Profile, drift: float, same: str) -> str:
    tokens = f"{of.chosen_num_tokens:.0f} / {of.rejected_num_tokens:.0f}"
    medians = f"{of.reward_margin[1]:>9.3g}{of.implicit_margin[1]:>10.3g}"
    return (
        f"{name:<28}{keep:>6}{of.num_pairs:>9,}{of.label_disagreement:>9.1%}{tokens:>12}{drift:>8.3f}{medians}{same:>7}"
    )


def as_json(sweep: Sweep) -> dict[str, Any]:
    """Plain JSON values: all ranked pairs, every choice, and the overlaps in the same order."""
    return {
        "quantiles": QUANTILES,
        "all": vars(sweep.everything),
        "selections": [outcome.as_json for outcome in sweep.outcomes],
        "jaccard": [[round(value, 6) for value in row] for row in sweep.jaccard.tolist()],
        "refused": sweep.refused,
    }


CELL = 26


def overlap_figure(sweep: Sweep) -> bytes:
    """SVG of its own: for each share that is kept, the Jaccard overlap of every two choices."""
    ratios = list(dict.fromkeys(outcome.choice.ratio for outcome in sweep.outcomes))
    labels = 12 + 5.5 * max(len(outcome.choice.name) for outcome in sweep.outcomes)
    parts, left, height = [], 0.0, 0.0
    for ratio in ratios:
        indices = [i for i, outcome in enumerate(sweep.outcomes) if outcome.choice.ratio == ratio]
        overlap, left = sweep.jaccard[indices][:, indices], left + labels
        bottom = 24 + CELL * len(indices)
        parts.append(svg.text(f"Jaccard overlap, keep {ratio:g}", (left + CELL * len(indices) / 2, 14), colour="ink"))
        for row, index in enumerate(indices):
            name, middle = sweep.outcomes[index].choice.name, CELL * (row + 0.5)
            parts.append(svg.text(name, (left - 6, 24 + middle + 3.5), anchor="end"))
            parts.append(svg.text(name, (left + middle + 3.5, bottom + 6), anchor="end", upward=True))
            for column, value in enumerate(overlap[row].tolist()):
                x, y = left + CELL * column, 24 + CELL * row
                parts.append(svg.area(svg.box(x, y, x + CELL, y + CELL), "most", value / 2))
                parts.append(svg.text(f"{value:.2f}", (x + CELL / 2, y + CELL / 2 + 3), 9, colour="ink"))
        left, height = left + CELL * len(indices) + 12, max(height, bottom + labels)
    return svg.svg_file(left, height, "Jaccard overlap of every two choices", parts)

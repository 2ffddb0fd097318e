"""A sweep to read: a table of what each choice selects, and a heat map of how much the choices overlap."""

from typing import Any

from mapjob.escaping import one_line
from mapjob.ranking.compare import QUANTILES, Profile, Sweep
from mapjob.report import svg

WIDTHS = {"keep": 6, "pairs": 9, "against": 9, "tokens": 12, "groups": 8, "h": 9, "implicit": 10, "same": 7}
HEADER = f"{'selection':<28}" + "".join(f"{name:>{width}}" for name, width in WIDTHS.items())
LEGEND = """
against: share of pairs on which the reward model disagrees with the label. tokens: mean of chosen / rejected.
groups: drift of the groups' shares, 0 to 1. h, implicit: medians of the reward margin and of the implicit margin.
same: Jaccard overlap with the first selection of that share."""


def sweep_text(sweep: Sweep) -> str:
    """One line per choice; the first line is all ranked pairs."""
    lines = [HEADER, _line("all ranked", "", sweep.everything, 0.0, "")]
    first: dict[float, int] = {}
    for index, outcome in enumerate(sweep.outcomes):
        same = f"{sweep.jaccard[index, first.setdefault(outcome.choice.ratio, index)]:.3f}"
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


CELL, TOP = 26, 24


def overlap_figure(sweep: Sweep) -> bytes:
    """An SVG file: for each share that is kept, the Jaccard overlap of every two choices."""
    labels = 12 + 5.5 * max(len(outcome.choice.name) for outcome in sweep.outcomes)
    parts, left, height = [], labels, 0.0
    for ratio in dict.fromkeys(outcome.choice.ratio for outcome in sweep.outcomes):
        indices = [i for i, outcome in enumerate(sweep.outcomes) if outcome.choice.ratio == ratio]
        size = CELL * len(indices)
        parts.append(svg.text(f"Jaccard, keep {ratio:g}", (left + size, 14), anchor="end", colour="ink"))
        for row, index in enumerate(indices):
            name, middle = sweep.outcomes[index].choice.name, CELL * row + CELL / 2 + 3.5
            parts.append(svg.text(name, (left - 6, TOP + middle), anchor="end"))
            parts.append(svg.text(name, (left + middle, TOP + size + 6), anchor="end", upward=True))
            for column, value in enumerate(sweep.jaccard[index, indices].tolist()):
                x, y = left + CELL * column, TOP + CELL * row
                parts.append(svg.area(svg.box(x, y, x + CELL, y + CELL), "most", value / 2))
                parts.append(svg.text(f"{value:.2f}", (x + CELL / 2, y + CELL / 2 + 3), 9, colour="ink"))
        left, height = left + size + labels + 12, max(height, TOP + size + labels)
    return svg.svg_file(left - labels, height, "Jaccard overlap of every two choices", parts)

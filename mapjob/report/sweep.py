"""A sweep for people: a table of what every choice selects, and a figure of how much the choices agree."""

import io
from typing import Any

from mapjob.escaping import in_line
from mapjob.ranking.compare import QUANTILES, Profile
from mapjob.ranking.sweep import Sweep

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
        name = in_line(outcome.choice.name)
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


def overlap_figure(sweep: Sweep) -> bytes:
    """SVG: for each share that is kept, the Jaccard overlap of every two choices."""
    import matplotlib  # slow to import, and nothing else here draws

    matplotlib.use("svg")
    from matplotlib import pyplot

    # Text as text, and the same bytes for the same sweep.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mapjob", "font.size": 8}):
        ratios = list(dict.fromkeys(outcome.choice.ratio for outcome in sweep.outcomes))
        places = [[i for i, o in enumerate(sweep.outcomes) if o.choice.ratio == ratio] for ratio in ratios]
        side = 1.2 + 0.32 * max(map(len, places))
        figure, axes = pyplot.subplots(1, len(ratios), figsize=(side * len(ratios), side), squeeze=False)
        for ratio, own, axis in zip(ratios, places, axes[0]):
            overlap = sweep.jaccard[own][:, own]
            axis.imshow(overlap, vmin=0, vmax=1, cmap="Blues")
            names = [sweep.outcomes[i].choice.name for i in own]
            axis.set_xticks(range(len(own)), names, rotation=90)
            axis.set_yticks(range(len(own)), names)
            axis.set_title(f"Jaccard overlap, keep {ratio:g}")
            for (row, column), value in zip(((i, j) for i in range(len(own)) for j in range(len(own))), overlap.flat):
                color = "white" if value > 0.6 else "black"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=6)
        figure.tight_layout()
        out = io.BytesIO()
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
        pyplot.close(figure)
    return out.getvalue()

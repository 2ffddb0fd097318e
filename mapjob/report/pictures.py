"""The figures of a report with what they say: the picture that explains MAP, and how scores and lengths are spread."""

from collections.abc import Mapping
from typing import Any

from mapjob.config import Config
from mapjob.metrics.map import Scale
from mapjob.report.bins import WITHIN, Density, Histogram
from mapjob.report.figures import draw_density, draw_histogram
from mapjob.report.markup import Html, figure, note, section

LEGEND = """<p class="legend"><span class="most">more than two thirds selected</span>
<span class="some">a third to two thirds</span> <span class="all">less than a third</span></p>"""


def picture(manifest: dict[str, Any], config: Config, bins: Density) -> Html:
    """Explicit against implicit margin of all ranked pairs."""
    selection, statistics = config.selection, manifest["statistics"]
    cut_off = statistics["cut_off"]
    drawn_line = selection.metric == "map" and cut_off is not None
    line = (Scale(**statistics["scale"]), selection.alpha, cut_off) if drawn_line else None
    words = [
        "Every ranked pair by its margins without sign. A stronger colour is more pairs, on a logarithmic scale.",
        "To the right, the reward model tells the two sides further apart; at the bottom, the policy does not.",
        "What lies at the bottom right is left to learn.",
    ]
    if drawn_line:
        words.append(f"On the line map_score is the cut-off, {cut_off:.4g}; it is larger on the right of it.")
        if sum(manifest["counts"]["passed_over"].values()):
            words.append("Some pairs on the right of it are passed over by the rules of the selection.")
    elif selection.metric != "map":
        words.append(f"The selection goes by {selection.metric}, so its edge need not be a line here.")
    svg = draw_density(bins, line)
    label = f'<div class="picture" role="img" aria-label="Density of the margins, selected pairs in colour">{svg}</div>'
    caption = " ".join([*words, _beyond(bins.num_beyond)])
    return section("picture", "What is left to learn", Html(f"<figure>{LEGEND}{label}</figure>"), note(caption))


def distributions(histograms: Mapping[str, Histogram]) -> Html:
    """Score, margins and lengths, of all ranked pairs and of those that are selected."""
    figures = []
    for name, bins in histograms.items():
        svg = draw_histogram(name, bins)
        label = f'<div role="img" aria-label="Histogram of {name}, selected pairs in colour">{svg}</div>'
        figures.append(figure(label, name, _beyond(bins.num_beyond)))
    return section(
        "distributions",
        "Score, margins and lengths",
        '<p class="legend"><span class="most">selected</span><span class="pale">all ranked</span></p>',
        '<div class="grid">' + "\n".join(figures) + "</div>",
        note(f"Heights are numbers of pairs. The axes leave out at most {1 - WITHIN:.1%} of them at either end."),
    )


def _beyond(number: int) -> str:
    if not number:
        return ""
    return f"{number:,} pair{'s lie' if number > 1 else ' lies'} beyond the axes."

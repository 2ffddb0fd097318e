"""The figures of a report with what they say: the picture that explains MAP, and how scores and lengths are spread."""

from typing import Any

import numpy as np

from mapjob.config import Config
from mapjob.ranking.select import Ranking
from mapjob.report.figures import WITHIN, Bools, Drawing, density, distribution
from mapjob.report.markup import Html, figure, note, section

LEGEND = """<p class="legend"><span class="most">more than two thirds selected</span>
<span class="some">a third to two thirds</span> <span class="all">less than a third</span></p>"""


def picture(ranking: Ranking, config: Config, kept: Bools) -> Html:
    """Explicit against implicit margin of all ranked pairs."""
    selection, cut_off = config.selection, ranking.cut_off
    drawn_line = selection.metric == "map" and cut_off is not None
    line = (ranking.scale, selection.alpha, cut_off) if drawn_line else None
    drawing = density(ranking.reward_margin, ranking.implicit_margin, kept, line)
    words = [
        "Every ranked pair by its margins without sign. A stronger colour is more pairs, on a logarithmic scale.",
        "To the right, the reward model tells the two sides further apart; at the bottom, the policy does not.",
        "What lies at the bottom right is left to learn.",
    ]
    if drawn_line:
        words.append(f"On the line map_score is the cut-off, {cut_off:.4g}; it is larger on the right of it.")
        if sum(ranking.cut.passed_over.values()):
            words.append("Some pairs on the right of it are passed over by the rules of the selection.")
    elif selection.metric != "map":
        words.append(f"The selection goes by {selection.metric}, so its edge need not be a line here.")
    svg = drawing.svg
    label = f'<div class="picture" role="img" aria-label="Density of the margins, selected pairs in colour">{svg}</div>'
    caption = " ".join([*words, _beyond(drawing)])
    return section("picture", "What is left to learn", Html(f"<figure>{LEGEND}{label}</figure>"), note(caption))


def distributions(manifest: dict[str, Any], ranking: Ranking, kept: Bools) -> Html:
    """Score, margins and lengths, of all ranked pairs and of those that are selected."""
    metric = manifest["config"]["selection"]["metric"]
    columns = ranking.pairs.columns
    chosen, rejected = (columns[f"{side}_num_tokens"].astype(np.int32) for side in ("chosen", "rejected"))
    numbers = {
        "map_score" if metric == "map" else metric: ranking.score,
        "reward margin": ranking.reward_margin,
        "implicit margin": ranking.implicit_margin,
        "tokens of the chosen side": chosen,
        "tokens of the rejected side": rejected,
        "tokens, chosen less rejected": chosen - rejected,
    }
    figures = []
    for name, values in numbers.items():
        drawing = distribution(name, values, kept)
        label = f'<div role="img" aria-label="Histogram of {name}, selected pairs in colour">{drawing.svg}</div>'
        figures.append(figure(label, name, _beyond(drawing)))
    return section(
        "distributions",
        "Score, margins and lengths",
        '<p class="legend"><span class="most">selected</span><span class="pale">all ranked</span></p>',
        '<div class="grid">' + "\n".join(figures) + "</div>",
        note(f"Heights are numbers of pairs. The axes leave out at most {1 - WITHIN:.1%} of them at either end."),
    )


def _beyond(drawing: Drawing) -> str:
    if not drawing.num_beyond:
        return ""
    return f"{drawing.num_beyond:,} pair{'s lie' if drawing.num_beyond > 1 else ' lies'} beyond the axes."

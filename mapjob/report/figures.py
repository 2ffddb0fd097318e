"""The figures of a report as SVG for its page: the same bytes for the same bins, colours as the page's style says."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64
from mapjob.config import Config
from mapjob.metrics.map import Scale
from mapjob.report.markup import Html, figure, note, section

# Pairs counted in bins, for the figures of a report: a few thousand numbers for any corpus. They are counted a
# piece at a time, so counting costs the same memory for any corpus too.

MOST_CELLS = 48  # of the density, each way; fewer for few pairs
BINS = 40
PIECE = 2**17  # pairs that are counted at once
WITHIN = 0.995  # share of the pairs that the axes reach, or more
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Density:
    """Pairs in the cells of a grid. edges: of the cells along both axes, from 0; counts, selected: (cells, cells) of
    all pairs and of those that are selected; num_beyond: pairs that lie beyond the axes.
    """

    edges: tuple[list[float], list[float]]
    counts: list[list[int]]
    selected: list[list[int]]
    num_beyond: int


@dataclass(frozen=True)
class Histogram:
    """Pairs in bins of a number, as in a Density. edges: (bins + 1,); counts, selected: (bins,)."""

    edges: list[float]
    counts: list[int]
    selected: list[int]
    num_beyond: int


def density(reward_margin: F64, implicit_margin: F64, kept: Bools) -> Density:
    """Explicit against implicit margin, absolute. reward_margin, implicit_margin and kept: (N,)."""
    cells = min(MOST_CELLS, 8 + int(len(kept) ** 0.5 / 4))
    edges = [np.linspace(0.0, _reach(np.abs(margin)), cells + 1) for margin in (reward_margin, implicit_margin)]
    counts, selected = np.zeros((cells, cells), np.int64), np.zeros((cells, cells), np.int64)
    for start in range(0, len(kept), PIECE):
        piece = slice(start, start + PIECE)
        x, y, own = np.abs(reward_margin[piece]), np.abs(implicit_margin[piece]), kept[piece]
        counts += np.histogram2d(x, y, edges)[0].astype(np.int64)
        selected += np.histogram2d(x[own], y[own], edges)[0].astype(np.int64)
    beyond = len(kept) - int(counts.sum())
    return Density((edges[0].tolist(), edges[1].tolist()), counts.tolist(), selected.tolist(), beyond)


def histogram(values: npt.NDArray, kept: Bools) -> Histogram:
    """A number of every pair; whole numbers have whole bins. values, kept: (N,)."""
    low = float(np.quantile(values, 1 - WITHIN, method="lower"))
    high = float(np.quantile(values, WITHIN, method="higher"))
    if np.issubdtype(values.dtype, np.integer):
        width = int(high - low) // BINS + 1
        edges = low - 0.5 + width * np.arange(int(high - low) // width + 2)
    else:
        edges = np.linspace(low, high, BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    counts, selected = np.histogram(values, edges)[0], np.histogram(values[kept], edges)[0]
    return Histogram(edges.tolist(), counts.tolist(), selected.tolist(), len(values) - int(counts.sum()))


def _reach(values: F64) -> float:
    """End of an axis that starts at 0."""
    return 1.02 * float(np.quantile(values, WITHIN, method="higher")) or 1.02 * float(values.max()) or 1.0


LEVELS = 6  # shades of the density
# Drawn in these, shown in the style's variables of these names, which differ in light and dark.
COLOURS = {"ink": "#010101", "soft": "#020202", "all": "#030303", "some": "#040404", "most": "#050505"}


def draw_density(bins: Density, line: tuple[Scale, float, float] | None) -> str:
    """Explicit against implicit margin of all pairs; where they are selected, in another colour.

    line: (scale, alpha, cut-off) of MAP, whose cut line is drawn.
    """
    edges = [np.array(axis) for axis in bins.edges]
    counts, selected = np.array(bins.counts), np.array(bins.selected)
    share = selected / np.maximum(counts, 1)
    shade = np.ceil(LEVELS * np.log1p(counts) / np.log1p(max(1, counts.max()))).astype(int)
    figure, axis = _empty(5.2, 4.4, left=0.6, bottom=0.55)
    for name, where in (("all", share < 1 / 3), ("some", (share >= 1 / 3) & (share <= 2 / 3)), ("most", share > 2 / 3)):
        for level in range(1, LEVELS + 1):
            _fill(axis, edges, where & (shade == level), COLOURS[name], 0.1 + 0.85 * (level / LEVELS) ** 1.3)
    if line is not None:
        _cut_line(axis, *line, edges[0][-1], edges[1][-1])
    axis.set_xlim(0, edges[0][-1])
    axis.set_ylim(0, edges[1][-1])
    axis.set_xlabel("|reward margin|: what the reward model asks for")
    axis.set_ylabel("|implicit margin|: what the policy has")
    return _svg(figure, "density")


def draw_histogram(name: str, bins: Histogram) -> str:
    """A number of every pair, and of it the selected part."""
    figure, axis = _empty(3.6, 1.9, left=0.06, bottom=0.27)
    axis.stairs(bins.counts, bins.edges, fill=True, color=COLOURS["all"], alpha=0.45, linewidth=0)
    axis.stairs(bins.selected, bins.edges, fill=True, color=COLOURS["most"], linewidth=0)
    axis.set_xlim(bins.edges[0], bins.edges[-1])
    axis.set_ylim(0, max(1, *bins.counts) * 1.04)
    axis.yaxis.set_visible(False)
    axis.spines["left"].set_visible(False)
    return _svg(figure, name)


def _empty(width: float, height: float, left: float, bottom: float) -> tuple[Any, Any]:
    """(figure, its axes). In inches; at the left and at the bottom there is room for labels."""
    from matplotlib.figure import Figure  # slow to import, and nothing else here draws
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(width, height), frameon=False)
    # Where the axes are is said, since matplotlib would draw everything twice to find it out.
    margin = 0.06
    inner = (left, bottom, width - left - margin, height - bottom - margin)
    axis = figure.add_axes([part / whole for part, whole in zip(inner, (width, height) * 2)], facecolor="none")
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(COLOURS["soft"])
        spine.set_linewidth(0.6)
    axis.tick_params(length=0, pad=5, labelsize=10, labelcolor=COLOURS["soft"])
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.yaxis.set_major_locator(MaxNLocator(5))
    for one in (axis.xaxis, axis.yaxis):
        one.label.set_color(COLOURS["ink"])
        one.label.set_size(11)
        one.labelpad = 8
    return figure, axis


def _fill(axis: Any, edges: list[F64], where: Bools, colour: str, opacity: float) -> None:
    """One path over all these cells; those beside each other in a row are one rectangle."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners = []
    for row in range(where.shape[1]):
        turns = np.flatnonzero(np.diff(where[:, row], prepend=False, append=False))
        bottom, top = edges[1][row], edges[1][row + 1]
        for left, right in edges[0][turns].reshape(-1, 2):
            corners.append([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)])
    if corners:
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(corners)
        path = Path(np.concatenate(corners), codes)
        axis.add_patch(PathPatch(path, facecolor=colour, alpha=opacity, linewidth=0, gid="cells", clip_on=False))


def _cut_line(axis: Any, scale: Scale, alpha: float, cut_off: float, right: float, top: float) -> None:
    """Where S_r x - alpha S_i y is the cut-off, as far as the axes reach."""
    a, b = scale.reward, alpha * scale.implicit
    if a > 0:
        y = np.array([0.0, top])
        x = (cut_off + b * y) / a
    elif b > 0:
        x, y = np.array([0.0, right]), np.full(2, -cut_off / b)
    else:
        return
    axis.plot(x, y, color=COLOURS["ink"], linewidth=1.4, gid="cut")


def _svg(figure: Any, name: str) -> str:
    """The svg element alone: what matplotlib puts around it, its ids and its styles would meet others in a page."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    for unwanted in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r' xmlns(:\w+)?="[^"]*"'):
        svg = re.sub(unwanted, "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="(cells|cut)">', r'<g class="\1">', svg)
    svg = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", svg).replace("<g/>", "")
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path.group()), svg)
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', '<svg aria-hidden="true"', svg)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", svg)


# The figures of a report with what they say: the picture that explains MAP, and how scores and lengths are spread.

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

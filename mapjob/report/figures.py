"""The figures of a report: pairs are counted in bins, and the bins are drawn, with a sentence on how to read them.

The bins are a few thousand numbers for a corpus of any size, and are counted a piece at a time, in constant memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapjob import collective
from mapjob.arrays import F64, I64, Bools
from mapjob.config.run import Config
from mapjob.metrics.map import Scale
from mapjob.metrics.quantiles import quantiles
from mapjob.report import svg
from mapjob.report.markup import Html, note, section
from mapjob.report.svg import Axes
from mapjob.store.run_folder import Manifest

MAX_CELLS = 48  # of the density, each way; fewer for few pairs
BINS = 40
PIECE = 2**17  # pairs that are counted at once
WITHIN = 0.995  # share of the pairs that the axes reach, or more


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


def density(reward_margin: F64, implicit_margin: F64, reach: tuple[float, float], is_selected: Bools) -> Density:
    """Explicit against implicit margin, absolute, over all pieces. Arrays: (N,); reach: the ends of the axes."""
    num = collective.total(len(is_selected))
    cells = min(MAX_CELLS, 8 + int(num**0.5 / 4))
    edges = [np.linspace(0.0, end, cells + 1) for end in reach]
    counts = np.zeros((2, cells, cells), np.int64)
    for start in range(0, len(is_selected), PIECE):
        piece = slice(start, start + PIECE)
        x, y, chosen = np.abs(reward_margin[piece]), np.abs(implicit_margin[piece]), is_selected[piece]
        counts[0] += np.histogram2d(x, y, edges)[0].astype(np.int64)
        counts[1] += np.histogram2d(x[chosen], y[chosen], edges)[0].astype(np.int64)
    counts, selected = collective.total(counts)
    return Density((edges[0].tolist(), edges[1].tolist()), counts.tolist(), selected.tolist(), num - int(counts.sum()))


def histogram(values: npt.NDArray, low: float, high: float, is_selected: Bools) -> Histogram:
    """A number of every pair of all pieces; whole numbers have whole bins. values, is_selected: (N,)."""
    if np.issubdtype(values.dtype, np.integer):
        width = int(high - low) // BINS + 1
        edges = low - 0.5 + width * np.arange(int(high - low) // width + 2)
    else:
        edges = np.linspace(low, high, BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    counts = [np.histogram(part, edges)[0] for part in (values, values[is_selected])]
    num, (counts, selected) = collective.total(len(values)), collective.total(np.stack(counts))
    return Histogram(edges.tolist(), counts.tolist(), selected.tolist(), num - int(counts.sum()))


def find_ends(margins: Sequence[F64], numbers: Sequence[npt.NDArray]) -> tuple[list[float], list[tuple[float, float]]]:
    """(end of an axis from 0 for each absolute margin; ends of an axis for each number), over all pieces."""
    wanted = [(np.abs(margin), [WITHIN, 1.0], "higher") for margin in margins]
    low = [(values, [1 - WITHIN], "lower") for values in numbers]
    high = [(values, [WITHIN], "higher") for values in numbers]
    at_shares = quantiles([*wanted, *low, *high])
    reach = [1.02 * float(inside) or 1.02 * float(largest) or 1.0 for inside, largest in at_shares[: len(margins)]]
    ends = [float(end[0]) for end in at_shares[len(margins) :]]
    return reach, list(zip(ends[: len(numbers)], ends[len(numbers) :]))


LEVELS = 6  # shades of the density
SHARES = ("all", "some", "most")  # colours of cells: less than a third selected, up to two thirds, more


def draw_density(bins: Density, line: tuple[Scale, float, float] | None, unit: str) -> str:
    """Explicit against implicit margin of all pairs; where they are selected, in another colour.

    line: (scale, alpha, cut-off) of MAP, whose cut line is drawn; unit: of the implicit margin.
    """
    xs, ys = bins.edges
    counts, selected = np.array(bins.counts), np.array(bins.selected)
    share = selected / np.maximum(counts, 1)
    colour = (share >= 1 / 3).astype(int) + (share > 2 / 3)
    shade = np.ceil(LEVELS * np.log1p(counts) / np.log1p(max(1, counts.max()))).astype(int)
    axes = Axes((0.0, xs[-1]), (0.0, ys[-1]), left=62, top=6, right=366, bottom=262)
    parts = []
    for one, level in np.unique(np.stack([colour, shade])[:, counts > 0], axis=1).T:
        cells = (colour == one) & (shade == level)
        shape = "".join(
            axes.box((xs[start], xs[stop]), (ys[row], ys[row + 1]))
            for row in range(cells.shape[1])
            for start, stop in _runs(cells[:, row])
        )
        parts.append(svg.area(shape, SHARES[one], 0.1 + 0.85 * (level / LEVELS) ** 1.3))
    if line is not None and (ends := _cut_line(*line, xs[-1], ys[-1])):
        parts.append(svg.line([axes.at(*end) for end in ends], "ink", 1.4, "cut"))
    middle = (axes.top + axes.bottom) / 2
    parts += [
        *axes.x_axis(),
        *axes.y_axis(),
        svg.text("how strongly the reward model separates the two answers", (214, 294), 11, colour="ink"),
        svg.text("(|reward margin|)", (214, 309)),
        svg.text("how strongly the policy already separates", (10, middle), 11, colour="ink", upward=True),
        svg.text(f"the two answers (|implicit margin|, {unit})", (24, middle), upward=True),
    ]
    return svg.svg(375, 316, "Density of the margins, selected pairs in colour", parts)


def draw_histogram(name: str, bins: Histogram) -> str:
    """A number of every pair, and of it the selected part."""
    top = 1.04 * max(1, *bins.counts)
    axes = Axes((bins.edges[0], bins.edges[-1]), (0.0, top), left=10, top=4, right=230, bottom=106)
    bars = [_bars(axes, bins.edges, bins.counts, "all", 0.45), _bars(axes, bins.edges, bins.selected, "most", 1.0)]
    return svg.svg(240, 126, f"Histogram of {name}, selected pairs in colour", [*bars, *axes.x_axis()])


def _bars(axes: Axes, edges: list[float], counts: list[int], colour: str, opacity: float) -> str:
    bars = zip(edges, edges[1:], counts)
    return svg.area("".join(axes.box((low, high), (0, count)) for low, high, count in bars if count), colour, opacity)


def _runs(cells: Bools) -> I64:
    """(runs, 2): the first index of each run of true cells, and the one behind its last."""
    return np.flatnonzero(np.diff(cells, prepend=False, append=False)).reshape(-1, 2)


def _cut_line(scale: Scale, alpha: float, cut_off: float, right: float, top: float) -> list[tuple[float, float]]:
    """Both ends, within the axes, of the line on which S_r x - alpha S_i y is the cut-off; [] if it is outside them."""
    a, b = scale.reward, alpha * scale.implicit
    ends = [((cut_off + b * y) / a, y) for y in (0.0, top)] if a > 0 else []
    ends += [(x, (a * x - cut_off) / b) for x in (0.0, right)] if b > 0 else []
    inside = sorted((x, y) for x, y in ends if 0 <= x <= right and 0 <= y <= top)
    return [inside[0], inside[-1]] if inside else []


LEGEND = """<p class="legend"><span class="most">more than two thirds selected</span>
<span class="some">a third to two thirds</span> <span class="all">less than a third</span></p>"""


def picture(manifest: Manifest, config: Config, bins: Density) -> Html:
    """The section that explains MAP: explicit against implicit margin of all ranked pairs."""
    selection, statistics = config.selection, manifest["statistics"]
    cut_off = statistics["cut_off"]
    words = [
        "Every ranked pair by the size of its two margins. A stronger colour means more pairs (log scale).",
        "At the bottom right, the reward model separates the two answers and the policy does not yet: this is what is "
        "left to learn.",
    ]
    line = None
    if selection.metric != "map":
        words.append(f"The selection goes by {selection.metric}, so its edge need not be a line here.")
    elif cut_off is not None:
        line = Scale(**statistics["scale"]), selection.alpha, cut_off
        skips = any(manifest["counts"]["passed_over"].values())
        skipped = ", except those that the rules of the selection skip" if skips else ""
        words.append(f"Pairs to the right of the line score above the cut-off {cut_off:.3g} and are selected{skipped}.")
    words.append(_outliers(bins.num_beyond))
    drawing = draw_density(bins, line, "nats per token" if selection.implicit == "simpo" else "nats")
    shown = Html(f'<figure class="picture">{LEGEND}{drawing}</figure>')
    return section("picture", "What is left to learn", shown, note(" ".join(words)))


def distributions(histograms: Mapping[str, Histogram]) -> Html:
    """The section of scores, margins and lengths, of all ranked pairs and of those that are selected."""
    figures = [
        f"<figure>\n<h3>{name}</h3>\n{draw_histogram(name, bins)}\n"
        f"<figcaption>{_outliers(bins.num_beyond)}</figcaption>\n</figure>"
        for name, bins in histograms.items()
    ]
    return section(
        "distributions",
        "Score, margins and lengths",
        '<p class="legend"><span class="most">selected</span><span class="pale">all ranked</span></p>',
        '<div class="grid">' + "\n".join(figures) + "</div>",
        note(f"Heights are numbers of pairs. The axes leave out at most {1 - WITHIN:.1%} of them at either end."),
    )


def _outliers(number: int) -> str:
    if not number:
        return ""
    return f"{number:,} outlier{'s are' if number > 1 else ' is'} not shown."

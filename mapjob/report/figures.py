"""The figures of a report as SVG for its page: the same bytes for the same bins, colours as the page's style says."""

import io
import re
from typing import Any

import numpy as np

from mapjob.arrays import F64
from mapjob.metrics.map import Scale
from mapjob.report.bins import Bools, Density, Histogram

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

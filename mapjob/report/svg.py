"""SVG written directly: filled boxes, lines, text, axes. The same numbers give the same bytes.

Colours are variables of the page's style (markup.COLOURS), so that a drawing is right in light and in dark. All
lengths are in pixels of the drawing, and y grows downwards.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mapjob.escaping import html_text
from mapjob.report.markup import COLOURS

Point = tuple[float, float]


def svg(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    """An svg element; label: what a screen reader says of it."""
    head = f'<svg viewBox="0 0 {_px(width)} {_px(height)}" role="img" aria-label="{html_text(label)}">'
    return "\n".join([head, *parts, "</svg>"])


def svg_file(width: float, height: float, label: str, parts: Iterable[str]) -> bytes:
    """A file of its own, shown at 1.5 times its size, with the colours that a page would give it."""
    style = f"<style>\n{COLOURS}svg {{ background: var(--page); font-family: sans-serif; }}</style>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_px(1.5 * width)}" height="{_px(1.5 * height)}" '
    return svg(width, height, label, [style, *parts]).replace("<svg ", head, 1).encode()


def box(left: float, top: float, right: float, bottom: float) -> str:
    """A rectangle, as a piece of an `area`."""
    return f"M{_px(left)} {_px(top)}H{_px(right)}V{_px(bottom)}H{_px(left)}z"


def area(shape: str, colour: str, opacity: float = 1.0) -> str:
    """A filled shape; shape: the commands of an SVG path."""
    return f'<path fill="var(--{colour})" fill-opacity="{opacity:.2f}" d="{shape}"/>'


def line(points: Iterable[Point], colour: str, width: float, name: str) -> str:
    """A line through points; name: its class."""
    path = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
    return f'<polyline class="{name}" fill="none" stroke="var(--{colour})" stroke-width="{width:g}" points="{path}"/>'


def text(
    words: str, at: Point, size: float = 10, anchor: str = "middle", colour: str = "soft", upward: bool = False
) -> str:
    """anchor: which end of the words is at the point: start, middle or end; upward: read from bottom to top."""
    x, y = map(_px, at)
    turn = f' transform="rotate(-90 {x} {y})"' if upward else ""
    style = f'font-size="{size:g}" text-anchor="{anchor}" fill="var(--{colour})"'
    return f'<text x="{x}" y="{y}" {style}{turn}>{html_text(words)}</text>'


def ticks(low: float, high: float, at_most: int = 5) -> list[float]:
    """Round numbers from low to high: at most so many steps of 1, 2, 2.5 or 5 times a power of ten."""
    rough = (high - low) / at_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10, 20) if power * factor >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


@dataclass(frozen=True)
class Axes:
    """A plane of numbers. x, y: the ends of its axes; left, top, right, bottom: where it is in the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float
    top: float
    right: float
    bottom: float

    def at(self, x: float, y: float) -> Point:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def box(self, x: tuple[float, float], y: tuple[float, float]) -> str:
        """The rectangle between two numbers of either axis, as a piece of an `area`."""
        (left, bottom), (right, top) = self.at(x[0], y[0]), self.at(x[1], y[1])
        return box(left, top, right, bottom)

    def x_axis(self) -> list[str]:
        labels = [text(_label(value), (self.at(value, 0)[0], self.bottom + 14)) for value in ticks(*self.x)]
        return [line([(self.left, self.bottom), (self.right, self.bottom)], "soft", 0.6, "axis"), *labels]

    def y_axis(self) -> list[str]:
        labels = [text(_label(v), (self.left - 5, self.at(0, v)[1] + 3.5), anchor="end") for v in ticks(*self.y)]
        return [line([(self.left, self.top), (self.left, self.bottom)], "soft", 0.6, "axis"), *labels]


def _label(value: float) -> str:
    return f"{value:,.7g}".replace("-", "−")


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

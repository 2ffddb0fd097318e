"""The runs of an output folder side by side, from their manifests alone: a table, and a page of small lines."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mapjob.escaping import one_line
from mapjob.report.markup import Html, document, note, section, table, text
from mapjob.report.status import share_contradicted
from mapjob.report.svg import Axes, area, line, svg
from mapjob.store.run_folder import Manifest

MAX_GROUPS = 8  # that are drawn, those with the largest share of any night
COUNTS = ("rows", "ranked", "selected")
SHARES = ("contradicted", "dropped", "overlap")
NUMBERS = ("chosen tokens", "rejected tokens", "cut-off", "reward margin")
ABOUT = {
    "contradicted": "share of pairs whose label the reward model contradicts",
    "dropped": "share of rows that a rule drops",
    "overlap": "share of the pairs of the run that was promoted before, selected again",
    "chosen tokens": "mean of the selection",
    "rejected tokens": "mean of the selection",
    "cut-off": "score of the last pair that is kept",
    "reward margin": "median of its absolute value over all ranked pairs",
}
SPAN, SPAN_OF_NUMBERS = 0.1, 0.2  # what a line shows at least: of shares as they are, else of the largest value
LEVELS = "▁▂▃▄▅▆▇█"
MOST_BLOCKS = 45  # of a line of blocks: of more runs some are left out, never the first or the last

Values = Sequence[float | None]


@dataclass(frozen=True)
class Night:
    """A run as history shows it. values: by COUNTS, SHARES and NUMBERS; None: not measured. failed: its checks."""

    run_id: str
    name: str | None
    finished_at: str
    promoted: bool
    failed: list[str]
    values: dict[str, float | None]
    groups: dict[str, float]  # empty: the run went by no groups

    @classmethod
    def of(cls, manifest: Manifest, promoted: str | None) -> "Night":
        """promoted: id of the promoted run."""
        counts, measures, statistics = manifest["counts"], manifest.get("measures", {}), manifest["statistics"]
        values: dict[str, float | None] = {name: counts[name] for name in COUNTS}
        values |= {"contradicted": share_contradicted(manifest), "overlap": measures.get("overlap")}
        values |= {f"{side} tokens": measures.get(f"{side}_num_tokens") for side in ("chosen", "rejected")}
        values |= {"dropped": counts["dropped"] / counts["rows"], "cut-off": statistics["cut_off"]}
        values["reward margin"] = statistics["abs_reward_margin"]["quantiles"]["0.5"]
        failed = [check["why"] for check in manifest.get("checks", ())]
        run_id, groups = manifest["run_id"], measures.get("groups", {})
        is_promoted = run_id == promoted
        return cls(run_id, manifest.get("name"), manifest["finished_at"], is_promoted, failed, values, groups)

    @property
    def at(self) -> str:
        return self.finished_at[:16].replace("T", " ")

    @property
    def state(self) -> str:
        return "promoted" if self.promoted else "check failed" if self.failed else ""

    @property
    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def series(nights: Sequence[Night]) -> dict[str, list[float | None]]:
    """Every line by its name: the values of all nights, and the shares of the largest groups."""
    lines = {name: [night.values[name] for night in nights] for name in (*COUNTS, *SHARES, *NUMBERS)}
    largest: dict[str, float] = {}
    for night in nights:
        for name, share in night.groups.items():
            largest[name] = max(share, largest.get(name, 0.0))
    drawn = sorted(largest, key=lambda name: (-largest[name], name))[:MAX_GROUPS]
    return lines | {f"group {name}": [_share(night, name) for night in nights] for name in drawn}


def _share(night: Night, group: str) -> float | None:
    return night.groups.get(group, 0.0) if night.groups else None


def show(name: str, value: float | None) -> str:
    """A value of a series as people read it."""
    if value is None:
        return "–"
    if name in COUNTS:
        return f"{value:,.0f}" if value < 10_000 else f"{value / 1e3:.4g}k" if value < 1e6 else f"{value / 1e6:.4g}M"
    return f"{value:.4g}" if name in NUMBERS else f"{value:.1%}"


def show_ends(name: str, values: Values) -> str:
    """The first and the last value that were measured: those that has_moved compares."""
    known: Values = [value for value in values if value is not None] or [None]
    return f"{show(name, known[0])} → {show(name, known[-1])}"


def reach(name: str, values: Values) -> tuple[float, float]:
    """The ends of a line's axis: at least SPAN apart, so that what hardly moves looks as if it did not."""
    known = [value for value in values if value is not None] or [0.0]
    low, high = min(known), max(known)
    least = SPAN_OF_NUMBERS * max(map(abs, known)) if name in (*COUNTS, *NUMBERS) else SPAN
    more = max(0.0, (least or 1.0) - (high - low)) / 2
    return low - more, high + more


def has_moved(name: str, values: Values) -> bool:
    """Whether the last value is as far from the first as a line shows at least. Counts may grow."""
    known = [value for value in values if value is not None]
    low, high = reach(name, [known[0]] if known else [])
    return name not in COUNTS and bool(known) and abs(known[-1] - known[0]) > (high - low) * 0.999


HEAD = ("rows", "ranked", "selected", "contradicted", "cut-off", "overlap")


def history_text(nights: Sequence[Night]) -> str:
    """A line per run, and below it a line of blocks per series; within 100 columns."""
    titles = "".join(f"{name:>{max(9, len(name) + 1)}}" for name in HEAD)
    lines = [f"{'finished, UTC':<17}{'run':<21}{titles}"]
    for night in nights:
        cells = "".join(f"{show(name, night.values[name]):>{max(9, len(name) + 1)}}" for name in HEAD)
        mark = "*" if night.promoted else "!" if night.failed else ""
        lines.append(f"{night.at:<17}{one_line(night.run_id)[:20]:<21}{cells} {mark}".rstrip())
    lines += ["* promoted, ! a check failed", ""]
    for name, values in series(nights).items():
        low, high = reach(name, values)
        steps = [
            round((v - low) / (high - low) * (len(LEVELS) - 1)) if v is not None else None for v in _thin_out(values)
        ]
        blocks = "".join(" " if step is None else LEVELS[step] for step in steps)
        ends = show_ends(name, values) + "  moved" * has_moved(name, values)
        lines.append(f"{one_line(name)[:21]:<22} {blocks}  {ends}")
    return "\n".join(lines)


def _thin_out(values: Values) -> Values:
    num = len(values)
    return values if num <= MOST_BLOCKS else [values[i * (num - 1) // (MOST_BLOCKS - 1)] for i in range(MOST_BLOCKS)]


def history_page(nights: Sequence[Night], output: str) -> str:
    """One HTML file without a script. output: the folder, for the title."""
    lines = series(nights)
    whole = [figure(name, values) for name, values in lines.items() if not name.startswith("group ")]
    groups = [figure(name, values) for name, values in lines.items() if name.startswith("group ")]
    span = f"{nights[0].at} to {nights[-1].at} UTC" if nights else "no run"
    words = (
        "Oldest on the left. A line spans at least a tenth, or for numbers a fifth of the largest, so small moves look "
        "small; what moved further from first to last is <b>bold</b>."
    )
    head = ["finished, UTC", "run", *HEAD, "state"]
    rows = [
        [night.at, _name(night), *(show(name, night.values[name]) for name in HEAD), _state(night)] for night in nights
    ]
    body = [
        f'<header>\n<p class="eyebrow">mapjob · history of {text(output)}</p>',
        f"<h1>{len(nights):,} runs, {span}</h1>\n</header>\n<main>",
        section("lines", "From run to run", note(words), *_grid(whole)),
        section("groups", "Groups, shares of the selection", *_grid(groups)) if groups else "",
        section("runs", "Runs", table("Runs", head, reversed(rows))),
        "</main>",
    ]
    return document(f"mapjob: history of {output}", "\n".join(body))


def _grid(figures: Iterable[str]) -> list[str]:
    return ['<div class="grid">', *figures, "</div>"]


def _name(night: Night) -> Html:
    return Html(text(night.run_id) + (f'<span class="about">{text(night.name)}</span>' if night.name else ""))


def _state(night: Night) -> Html:
    return Html("<br>".join([text(night.state), *(f"<i>{text(why)}</i>" for why in night.failed)]))


def figure(name: str, values: Values) -> str:
    """A small line with its first and last value."""
    low, high = reach(name, values)
    axes = Axes((0, max(1, len(values) - 1)), (low, high), 4, 6, 236, 54)
    parts = [line([(4, 60), (236, 60)], "rule", 1, "axis")]
    points: list[tuple[float, float]] = []
    for index, value in enumerate([*values, None]):
        if value is not None:
            points.append(axes.at(index, value))
            continue
        if len(points) > 1:
            parts.append(line(points, "most", 2, "line"))
        points = []
    for index in [index for index, value in enumerate(values) if value is not None][-1:]:
        x, y = axes.at(index, values[index])
        parts.append(area(f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z", "most"))
    ends = show_ends(name, values)
    shown = f"<b>{ends}</b>" if has_moved(name, values) else ends
    about = f'<span class="about">{text(ABOUT[name])}</span>' if name in ABOUT else ""
    drawing = svg(240, 64, f"{name}: {ends}", parts)
    return f"<figure>\n<h3>{text(name)}</h3>\n{drawing}\n<figcaption>{shown}{about}</figcaption>\n</figure>"

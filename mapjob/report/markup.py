"""Pieces of an HTML page, the page around them, and its style. Values are escaped unless they are `Html`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mapjob.escaping import html_text, one_line

LONGEST = 200  # characters of a value from the corpus or the run file
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # a browser loads nothing
# One column, no wider than a phone; two colours beside the ink, light and dark, which drawings have by themselves too.
COLOURS, STYLE = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("colours.css", "style.css"))


class Html(str):
    """Markup that this program wrote."""


def text(value: object) -> Html:
    """A value as one line of text; a longer one ends in its number of characters."""
    return value if isinstance(value, Html) else long_text(one_line(value), LONGEST)


def long_text(whole: str, at_most: int | None) -> Html:
    """Text of several lines; cut, and its characters counted, if it has more than at_most."""
    if at_most is None or len(whole) <= at_most:
        return Html(html_text(whole))
    return Html(f"{html_text(whole[:at_most])}… <i>({len(whole):,} characters)</i>")


def code(value: object) -> Html:
    return Html(f"<code>{text(value)}</code>")


def section(name: str, title: str, *parts: str) -> Html:
    """A part of the page; name: its id."""
    return Html(f'<section id="{name}">\n<h2>{title}</h2>\n' + "\n".join(parts) + "\n</section>\n")


def note(words: str) -> Html:
    """A paragraph beside a figure or a table. words: our own, where values are escaped already."""
    return Html(f'<p class="note">{words}</p>')


def name_and_about(name: object, about: object) -> Html:
    """What a row of a table is, and below it what that means."""
    return Html(f'{text(name)}<span class="about">{text(about)}</span>')


def table(label: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table that scrolls within itself. Its first column names the rows, the others hold numbers."""
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    lines = []
    for first, *numbers in rows:
        row = "".join(f"<td>{text(number)}</td>" for number in numbers)
        lines.append(f'<tr><th scope="row">{text(first)}</th>{row}</tr>')
    body = "\n".join(lines)
    return Html(
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table>\n'
        f"<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def facts(rows: Iterable[tuple[str, object]]) -> Html:
    """Names and what they are, one below the other."""
    lines = "\n".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows)
    return Html(f'<dl class="facts">\n{lines}\n</dl>')


def list_lines(values: Sequence[object], at_most: int) -> Html:
    """Values one below the other, and how many more there are."""
    lines = [text(value) for value in values[:at_most]]
    if len(values) > at_most:
        lines.append(Html(f"and {len(values) - at_most:,} more"))
    return Html("<br>".join(lines))


def document(title: str, body: str) -> str:
    """A whole page: one file without script, font or image from elsewhere."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{text(title)}</title>
<style>
{COLOURS}{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""

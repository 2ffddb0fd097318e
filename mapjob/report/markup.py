"""Pieces of an HTML page. Everything is text, and escaped, but what is an `Html` already."""

from collections.abc import Iterable, Sequence

from mapjob.escaping import in_html

LONGEST = 200  # characters of a value from the corpus or the run file


class Html(str):
    """Markup that this program wrote."""


def text(value: object) -> Html:
    """A value as text of the page; a longer one ends in its number of characters."""
    if isinstance(value, Html):
        return value
    whole = str(value)
    if len(whole) > LONGEST:
        return Html(f"{in_html(whole[:LONGEST])}… <i>({len(whole):,} characters)</i>")
    return Html(in_html(whole))


def code(value: object) -> Html:
    return Html(f"<code>{text(value)}</code>")


def section(name: str, title: str, *parts: str) -> Html:
    """A part of the page; name: its id."""
    return Html(f'<section id="{name}">\n<h2>{title}</h2>\n' + "\n".join(parts) + "\n</section>\n")


def note(words: str) -> Html:
    """A paragraph beside a figure or a table. words: our own, where values are escaped already."""
    return Html(f'<p class="note">{words}</p>')


def named(name: object, about: object) -> Html:
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


def figure(svg: str, title: str, caption: str) -> Html:
    """title and caption: our own words, where values are escaped already."""
    return Html(f"<figure>\n<h3>{title}</h3>\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>")


def listed(values: Sequence[object], most: int) -> Html:
    """Values one below the other, and how many more there are."""
    lines = [text(value) for value in values[:most]]
    if len(values) > most:
        lines.append(Html(f"and {len(values) - most:,} more"))
    return Html("<br>".join(lines))

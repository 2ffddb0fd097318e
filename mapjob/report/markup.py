"""Pieces of an HTML page, the page around them, and its style. Values are escaped unless they are `Html`."""

from collections.abc import Iterable, Sequence

from mapjob.escaping import html_text, one_line

LONGEST = 200  # characters of a value from the corpus or the run file
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # a browser loads nothing


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
<style>{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


# One column, two colours beside the ink, light and dark, and no wider than a phone.
COLOURS = """
:root {
  color-scheme: light dark;
  --page: #fcfcfa; --panel: #f3f3ef; --ink: #1b1d20; --soft: #62666d; --rule: #dddcd6;
  --all: #8d9199; --some: #6f97ae; --most: #0b6a96;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16181b; --panel: #1e2125; --ink: #e7e6e2; --soft: #a3a7ae; --rule: #34383e;
    --all: #7d828b; --some: #6d9fba; --most: #5cbdec;
  }
}
"""
STYLE = (
    COLOURS
    + """* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 56rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: anywhere; -webkit-text-size-adjust: 100%;
}
h1 { font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.2; margin: 0.2rem 0 0; }
h2 { font-size: 1.3rem; margin: 0 0 1rem; }
h3 { font-size: 1rem; margin: 2rem 0 0.5rem; }
section { margin-top: 3.25rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
dt, i, thead, .eyebrow, .note, .about, .legend, figcaption { color: var(--soft); font-size: 0.88rem; }
.note { max-width: 42rem; margin: 0.5rem 0 1rem; }
b, strong { color: var(--ink); font-weight: 600; }
dd { margin: 0; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; font-size: 0.86em; }
pre { background: var(--panel); padding: 0.9rem 1rem; border-radius: 6px; overflow-x: auto; overflow-wrap: normal; }
pre code { font-size: 0.84rem; }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: 1.25rem; margin: 2rem 0; }
.figures div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.figures dd { font-size: 1.5rem; font-weight: 600; }

.facts div { display: grid; grid-template-columns: 7rem 1fr; gap: 0 1rem; padding: 0.2rem 0; font-size: 0.94rem; }

.wide { overflow-x: auto; }
.wide + .wide { margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; overflow-wrap: normal; }
th, td { padding: 0.4rem 0 0.4rem 1.25rem; border-bottom: 1px solid var(--rule); vertical-align: top; }
th, td { text-align: right; font-weight: 400; white-space: nowrap; font-variant-numeric: tabular-nums; }
th:first-child { padding-left: 0; text-align: left; }
tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
.about { display: block; max-width: 36rem; }
.bar { display: block; width: min(8rem, 16vw); height: 0.6rem; margin: 0.45rem 0 0 auto; background: var(--panel); }
.bar span { display: block; height: 100%; background: var(--most); }

figure { margin: 0; }
figure h3 { margin: 0; font-weight: 500; }
figcaption:empty { display: none; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg path { shape-rendering: crispEdges; }
.picture { max-width: 36rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 2rem 1.75rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem; margin: 0 0 0.75rem; }
.legend span::before {
  content: ""; display: inline-block; width: 0.75em; height: 0.75em; margin-right: 0.5em; background: var(--all);
}
.legend .some::before { background: var(--some); }
.legend .most::before { background: var(--most); }
.legend .pale::before { opacity: 0.45; }

.pair { margin: 0 0 1.5rem; padding: 0.9rem 1rem; background: var(--panel); border-radius: 6px; }
.pair p { font-size: 0.88rem; color: var(--soft); margin: 0; }
.pair dl { display: grid; grid-template-columns: 1fr 1fr; gap: 0.6rem 1.2rem; margin: 0.6rem 0 0; }
.pair dl div:first-child { grid-column: 1 / -1; }
.pair dd { white-space: pre-wrap; max-height: 18rem; overflow-y: auto; }

nav, form { display: flex; flex-wrap: wrap; gap: 0.6rem 1rem; align-items: center; margin: 1rem 0; }
a { color: var(--most); }
input, select, button { font: inherit; max-width: 100%; }

@media (max-width: 32rem) {
  body { padding: 1.5rem 1rem 3rem; }
  th, td { padding-left: 0.8rem; }
  tbody th { min-width: 6.5rem; }
  .facts div, .pair dl { grid-template-columns: 1fr; }
}
"""
)

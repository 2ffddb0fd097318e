"""Pages of a selection as HTML that a local server hands out: no script, every text escaped."""

from urllib.parse import urlencode

from mapjob.escaping import html_text
from mapjob.report.markup import Html, document, text
from mapjob.report.pages import DISAGREEING, Filter, Pages
from mapjob.report.pair import pair_article

ROWS_PER_PAGE = 10


def page_html(pages: Pages, by: Filter, page: int, other: Pages | None) -> str:
    """One page of the pairs that a filter lets through; with another run, each pair's rank in that too."""
    matching = pages.matching(by)
    last = max(1, -(-len(matching) // ROWS_PER_PAGE))
    page = min(max(page, 1), last)
    rows = pages.rows(matching[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE])
    counts = pages.manifest["counts"]
    title = f"{counts['selected']:,} of {counts['ranked']:,} pairs, {pages.run.run_id}"
    compared = f"<p>compared with {text(other.run.run_id)}</p>" if other else ""
    ranks = other.ranks([row["pair_id"] for row in rows]) if other else {}
    articles = []
    for row in rows:
        group = row[pages.group_column] if pages.group_column else None
        rank = f" ({ranks.get(row['pair_id'], 'not selected')} in {other.run.run_id})" if other else ""
        articles.append(pair_article(row, rank if group is None else f"{rank}, {group}"))
    body = [
        f"<header><h1>{text(title)}</h1>{compared}</header><main>{_form(pages, by)}",
        _links(by, page, last, len(matching), "above"),
        *(articles or ["<p>No pair passes this filter.</p>"]),
        _links(by, page, last, len(matching), "below"),
        "</main>",
    ]
    return document(title, "\n".join(body))


def _form(pages: Pages, by: Filter) -> Html:
    options = "".join(
        f'<option value="{html_text(name)}"{" selected" * (name == by.group)}>{text(name)} ({number:,})</option>'
        for name, number in pages.groups.items()
    )
    groups = f'<select name="group" aria-label="group"><option value="">all groups</option>{options}</select>'
    checked = " checked" * (by.labels == DISAGREEING)
    return Html(
        f'<form method="get" action="/">{groups if options else ""}\n'
        f'<label><input type="checkbox" name="labels" value="{DISAGREEING}"{checked}> '
        f"reward model disagrees with the label</label>\n"
        f'<label>text or pair_id <input type="search" name="text" value="{html_text(by.text or "")}"></label>\n'
        "<button>show</button></form>"
    )


def _links(by: Filter, page: int, last: int, num_pairs: int, where: str) -> Html:
    def link(name: str, to: int) -> str:
        query = {key: value for key, value in vars(by).items() if value} | {"page": to}
        return f'<a href="/?{html_text(urlencode(query))}">{name}</a>' if 1 <= to <= last and to != page else name

    names = {"« First": 1, "‹ Previous": page - 1, "Next ›": page + 1, "Last »": last}
    links = " ".join(link(name, to) for name, to in names.items())
    number = f'<span class="note">page {page:,} of {last:,}, {num_pairs:,} pairs</span>'
    return Html(f'<nav aria-label="pages, {where}">{links} {number}</nav>')

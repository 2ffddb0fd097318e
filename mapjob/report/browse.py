"""Pages of a selection as HTML that a local server hands out: no script, every text escaped."""

from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import urlencode

import numpy as np

from mapjob.escaping import on_terminal
from mapjob.report.pages import DISAGREEING, ROWS_PER_PAGE, Filter, Pages

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 1rem;
  background: Canvas; color: CanvasText; }
nav, form { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; margin: .6rem 0; }
article { border-top: 1px solid var(--line); padding: .8rem 0; }
h2 { font-size: 1rem; margin: 0; } small { opacity: .75; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; background: var(--soft); padding: .5rem; margin: 0;
  max-height: 18rem; overflow-y: auto; }
input, select, button { font: inherit; }
@media (max-width: 640px) { .sides { grid-template-columns: 1fr; } }
"""


def page_html(pages: Pages, by: Filter, page: int, other: Pages | None) -> str:
    """One page of the pairs that a filter lets through; with another run, each pair's rank there too."""
    matching = pages.matching(by)
    last = max(1, -(-len(matching) // ROWS_PER_PAGE))
    page = min(max(page, 1), last)
    rows = pages.rows(np.asarray(matching[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE]))
    counts = pages.manifest["counts"]
    title = f"{counts['selected']:,} of {counts['ranked']:,} pairs, {_text(pages.run.run_id)}"
    against = f"<p>beside {_text(other.run.run_id)}</p>" if other else ""
    ranks = other.ranks([row["pair_id"] for row in rows]) if other else None
    articles = "".join(_article(pages, row, ranks) for row in rows) or "<p>No pair passes this filter.</p>"
    navs = [_nav(by, page, last, len(matching), where) for where in ("above", "below")]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{STYLE}</style></head><body>
<header><h1>{title}</h1>{against}</header><main>{_form(pages, by)}{navs[0]}{articles}{navs[1]}</main>
</body></html>"""


def _form(pages: Pages, by: Filter) -> str:
    groups = "".join(
        f'<option value="{_text(name)}"{" selected" if name == by.group else ""}>{_text(name)} ({number:,})</option>'
        for name, number in pages.groups.items()
    )
    select = (
        f'<select name="group" aria-label="group"><option value="">all groups</option>{groups}</select>'
        if groups
        else ""
    )
    checked = " checked" if by.labels == DISAGREEING else ""
    return f"""<form method="get" action="/">{select}
<label><input type="checkbox" name="labels" value="{DISAGREEING}"{checked}> label against the reward model</label>
<label>text or pair_id <input type="search" name="text" value="{_text(by.text or "")}"></label>
<button>show</button></form>"""


def _nav(by: Filter, page: int, last: int, number: int, where: str) -> str:
    def link(name: str, to: int) -> str:
        query = {key: value for key, value in vars(by).items() if value} | {"page": to}
        return f'<a href="/?{escape(urlencode(query))}">{name}</a>' if 1 <= to <= last and to != page else name

    links = " ".join([link("first", 1), link("back", page - 1), link("on", page + 1), link("last", last)])
    return f'<nav aria-label="pages, {where}">{links} <small>page {page:,} of {last:,}, {number:,} pairs</small></nav>'


def _article(pages: Pages, row: dict[str, Any], ranks: Mapping[str, int] | None) -> str:
    there = ""
    if ranks is not None:
        rank = ranks.get(row["pair_id"])
        there = f", rank {rank:,} there" if rank else ", not selected there"
    group = f", {_text(row[pages.group_column])}" if pages.group_column else ""
    against = "" if row["label_agrees"] else ", <strong>against the reward model</strong>"
    implicit = f", implicit {row['implicit_margin']:+.3f}" if "implicit_margin" in row else ""
    head = f"rank {row['rank']:,}{there}{group}{against}"
    scores = f"map {row['map_score']:+.3f}, reward {row['reward_margin']:+.3f}{implicit}, {_text(row['pair_id'])}"
    if "chosen" in row and "rejected" in row:
        sides = "".join(
            f"<div><small>{side}, reward {row[f'{side}_reward']:.3f}</small>{_panel(row[side])}</div>"
            for side in ("chosen", "rejected")
        )
    else:
        sides = "<p>This run holds the corpus's own columns: see <code>mapjob show</code> for the texts.</p>"
    prompt = row.get("prompt", row.get("conversations"))
    asked = _panel(prompt) if prompt else ""
    return f'<article><h2>{head}</h2><small>{scores}</small>{asked}<div class="sides">{sides}</div></article>'


def _panel(text: Any) -> str:
    """A text that scrolls within itself, also by the keyboard."""
    return f'<pre tabindex="0">{_said(text)}</pre>'


def _said(text: Any) -> str:
    if isinstance(text, dict):
        text = [text]
    if isinstance(text, list):
        turns = ((turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))) for turn in text)
        return "\n\n".join(f"[{_text(role)}] {_text(content)}" for role, content in turns)
    return _text(text)


def _text(value: Any) -> str:
    return escape(on_terminal(str(value)))

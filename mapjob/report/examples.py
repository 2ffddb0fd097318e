"""Pairs with their texts, for a report that is asked for them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from mapjob.corpus.records import Text
from mapjob.inert import text_in_html
from mapjob.ranking.order import I64
from mapjob.ranking.select import Ranking
from mapjob.report.markup import Html, code, note, section

CHARACTERS = 300


class Example(NamedTuple):
    """A row as a selection would hold it, and what it is an example of."""

    kind: str
    row: dict[str, Any]


def examples_of(ranking: Ranking, num: int) -> dict[str, I64]:
    """Indices of so many pairs of each kind, best first."""
    if num == 0:
        return {}
    order = ranking.order
    contradicted = order[ranking.reward_margin[order] < 0]
    return {
        "The best": order[:num],
        "The last": order[max(0, len(order) - num) :],
        "The best whose label the reward model contradicts": contradicted[:num],
    }


def examples(rows: Sequence[Example]) -> Html:
    parts = [note(f"Texts of the corpus, at most {CHARACTERS} characters of each.")]
    for kind in dict.fromkeys(example.kind for example in rows):
        parts.append(f"<h3>{kind}</h3>")
        parts += [_pair(example.row) for example in rows if example.kind == kind]
    return section("examples", "Examples", *parts)


def _pair(row: dict[str, Any]) -> str:
    margins = ", ".join(
        f"{name.replace('_', ' ')} {row[name]:+.3f}" for name in ("map_score", "reward_margin", "implicit_margin")
    )
    head = f"<p>rank {row['rank']:,}, {code(row['pair_id'])}: {margins}</p>"
    texts = "".join(f"<dt>{name}</dt><dd>{_short(row[name])}</dd>" for name in ("prompt", "chosen", "rejected"))
    return f'<article class="pair">{head}<dl>{texts}</dl></article>'


def _short(words: Text) -> str:
    whole = words if isinstance(words, str) else "\n".join(f"[{turn['role']}] {turn['content']}" for turn in words)
    if len(whole) <= CHARACTERS:
        return text_in_html(whole)
    return f"{text_in_html(whole[:CHARACTERS])}… <i>({len(whole):,} characters)</i>"

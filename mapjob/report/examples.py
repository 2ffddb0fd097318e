"""Pairs with their texts, for a report that is asked for them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mapjob.corpus.records import Text
from mapjob.escaping import text_in_html
from mapjob.report.markup import Html, code, note, section
from mapjob.report.pages import Pages
from mapjob.report.pair import with_texts
from mapjob.store.run_folder import RunFolder

CHARACTERS = 300


class Example(NamedTuple):
    """A row as a selection would hold it, and what it is an example of."""

    kind: str
    row: dict[str, Any]


def examples_of(run: RunFolder, num: int) -> list[Example]:
    """So many selected pairs of each kind, best first, with their texts."""
    if num == 0:
        return []
    pages = Pages(run)
    every = np.arange(pages.starts[-1])
    contradicted = np.flatnonzero(pages.column("reward_margin").to_numpy() < 0)
    kinds = {
        "The best": every[:num],
        "The last that are selected": every[max(0, len(every) - num) :],
        "The best whose label the reward model contradicts": contradicted[:num],
    }
    return [
        Example(kind, with_texts(pages.manifest, table.slice(place, 1)))
        for kind, numbers in kinds.items()
        for table in pages.tables(numbers)
        for place in range(table.num_rows)
    ]


def examples(rows: Sequence[Example]) -> Html:
    parts = [note(f"Texts of the corpus, at most {CHARACTERS} characters of each.")]
    for kind in dict.fromkeys(example.kind for example in rows):
        parts.append(f"<h3>{kind}</h3>")
        parts += [_pair(example.row) for example in rows if example.kind == kind]
    return section("examples", "Examples", *parts)


def _pair(row: dict[str, Any]) -> str:
    # Under a stated goal a pair has no implicit margin: with another prompt no log-probability holds.
    known = [name for name in ("map_score", "reward_margin", "implicit_margin") if name in row]
    margins = ", ".join(f"{name.replace('_', ' ')} {row[name]:+.3f}" for name in known)
    head = f"<p>rank {row['rank']:,}, {code(row['pair_id'])}: {margins}</p>"
    texts = "".join(f"<dt>{name}</dt><dd>{_short(row[name])}</dd>" for name in ("prompt", "chosen", "rejected"))
    return f'<article class="pair">{head}<dl>{texts}</dl></article>'


def _short(words: Text) -> str:
    whole = words if isinstance(words, str) else "\n".join(f"[{turn['role']}] {turn['content']}" for turn in words)
    if len(whole) <= CHARACTERS:
        return text_in_html(whole)
    return f"{text_in_html(whole[:CHARACTERS])}… <i>({len(whole):,} characters)</i>"

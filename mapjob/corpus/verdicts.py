"""Which column says which side is the better one: columns that may, and what their values would mean."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from mapjob.config.input import Verdict
from mapjob.corpus.head import TWO_SIDES, Head
from mapjob.corpus.reading import Reading

VERDICT = re.compile(
    r"winner|chosen|chosen_(index|idx|side)|labels?|choice|preference|preferred|better|verdict|vote|judge?ment|best"
    r"|.*_(winner|choice|preference|verdict|better|preferred)|(winner|preference|preferred|better|safer|best)_.*"
)
SCORES = {"score", "scores", "rating", "ratings", "reward", "rewards", "grade", "overall", "points", "quality"}


def verdicts(head: Head, ignore: Iterable[str] = ()) -> list[str]:
    """Columns whose names say that they tell the better side."""
    names = [name for name in head.schema.names if VERDICT.fullmatch(name.lower()) and name not in ignore]
    return [name for name in names if head.values(name) and head.is_filled(name)]


def score_pairs(head: Head, words: Iterable[tuple[str, str]], ignore: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Two columns of numbers with the two sides' scores."""
    numbers = [f.name for f in head.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    names = [name for name in numbers if name not in ignore]
    return [(one, two) for one, two, rest in head.partners(words, names) if rest & SCORES]


def propose_verdicts(head: Head, reading: Reading) -> Iterator[Verdict]:
    """Verdicts that names and values of the columns make likely, the likeliest first."""
    pairs = [(one, two) for one, two, rest in head.partners((("a", "b"), ("0", "1"), ("1", "2")), verdicts(head))]
    for pair in pairs:
        yield Verdict(higher=pair)
    for name in verdicts(head):
        if not any(name in pair for pair in pairs):
            values = head.values(name)
            if (verdict := _by_values(name, values, reading)) is not None:
                yield verdict
    for pair in score_pairs(head, TWO_SIDES):
        yield Verdict(higher=pair)


def _by_values(name: str, values: list[Any], reading: Reading) -> Verdict | None:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        if min(values) < 0 < max(values):
            return Verdict(sign=name)
        first, second = (1, 2) if 2 in values and 0 not in values else (0, 1)
        return Verdict(column=name, first=(first,), second=(second,))
    seen = {value for value in values if isinstance(value, str)}
    words = {value: re.findall(r"[a-z]+|\d+", value.lower()) for value in seen}
    for one, other in (*filter(None, [reading.sides]), *TWO_SIDES):
        first = [value for value in seen if one == value or one in words[value]]
        second = [value for value in seen if other == value or other in words[value]]
        if len(first) == len(second) == 1 and first != second:
            return Verdict(column=name, first=tuple(first), second=tuple(second))
    return None

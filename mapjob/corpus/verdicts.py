"""Which column says which side is the better one: columns that may, and what their values would mean."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from mapjob.config.input import Verdict, as_number
from mapjob.corpus.dialogues import tokens
from mapjob.corpus.head import TWO_SIDES, Head
from mapjob.corpus.reading import Reading

VERDICT = re.compile(
    r"winner|chosen|chosen_(index|idx|side)|labels?|choice|preference|preferred|better|verdict|vote|judge?ment|best"
    r"|selected|(human|gold|true)_(label|choice)|majority_vote|correct_side|is_.*_better"
    r"|.*_(winner|choice|preference|verdict|better|preferred)|(winner|preference|preferred|better|safer|best)_.*"
)
TIES = {"tie", "ties", "draw", "both"}
MOST_VALUES, LONGEST_VALUE = 6, 40  # of a column of strings that tells a side
SCORES = {"score", "scores", "rating", "ratings", "reward", "rewards", "grade", "overall", "points"}


def verdicts(head: Head, ignore: Iterable[str] = ()) -> list[str]:
    """Columns whose names say that they tell the better side."""
    names = [name for name in head.schema.names if VERDICT.fullmatch("_".join(tokens(name))) and name not in ignore]
    return [name for name in names if head.is_filled(name)]


def score_pairs(head: Head, words: Iterable[tuple[str, str]], ignore: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Two columns of numbers (or of strings that are numbers) with the two sides' scores."""
    names = [name for name in head.schema.names if name not in ignore and _holds_numbers(head, name)]
    return [(one, two) for one, two, rest in head.partners(words, names) if rest & SCORES]


def _holds_numbers(head: Head, name: str) -> bool:
    kind = head.schema.field(name).type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return True
    values = [value for value in head.values(name) if value != ""]
    return bool(values) and all(isinstance(value, str) and not math.isnan(as_number(value)) for value in values)


def propose_verdicts(head: Head, reading: Reading, ignore: Iterable[str]) -> Iterator[Verdict]:
    """Verdicts that names and values of the columns make likely, the likeliest first."""
    names = [name for name in verdicts(head, ignore) if not TIES & set(tokens(name))]
    pairs = [(one, two) for one, two, rest in head.partners((("a", "b"), ("0", "1"), ("1", "2")), names)]
    for pair in pairs:
        yield Verdict(higher=pair)
    for name in names:
        values = [] if any(name in pair for pair in pairs) else head.values(name)
        if values and (verdict := _by_values(name, values, reading)) is not None:
            yield verdict
    for pair in score_pairs(head, TWO_SIDES, ignore):
        yield Verdict(higher=pair)


def _by_values(name: str, values: list[Any], reading: Reading) -> Verdict | None:
    """What the values say by themselves; None if they can mean several things (five steps, a tie beside two sides)."""
    seen = set(map(str, values))
    if all(isinstance(value, bool) for value in values):
        return Verdict(column=name, first=(True,), second=(False,))
    if all(isinstance(value, int | float) for value in values):
        if min(values) < 0 or (max(values) > 1 and 0 in values and {"preference", "strength"} & set(tokens(name))):
            return Verdict(sign=name)
        first, second = (1, 2) if 2 in values else (0, 1)
        return Verdict(column=name, first=(first,), second=(second,)) if set(values) <= {first, second} else None
    if len(seen) > MOST_VALUES or any(len(value) > LONGEST_VALUE for value in seen):
        return None
    words = {value: re.findall(r"[a-z]+|\d+", value.lower()) for value in seen}
    for one, other in (*filter(None, [reading.sides]), *TWO_SIDES):
        first = [value for value in seen if one == value or one in words[value]]
        second = [value for value in seen if other == value or other in words[value]]
        if len(first) == len(second) == 1 and first != second:
            return Verdict(column=name, first=tuple(first), second=tuple(second))
    return None

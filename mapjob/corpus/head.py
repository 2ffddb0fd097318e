"""The first rows of a corpus, as recognition looks at them: shapes of values, and names that are pairs."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from mapjob.corpus.cells import Shape, decode_json, shape_of
from mapjob.corpus.dialogues import tokens
from mapjob.corpus.reading import Row, pick

# Words for the better and the worse side, and for two sides alike, in names that are the same but for them.
_BETTER_WORSE = """chosen rejected, preferred dispreferred, preferred rejected, accepted rejected, better worse,
    winner loser, winning losing, win lose, positive negative, pos neg, good bad, best worst, j k"""
BETTER_WORSE = [tuple(pair.split()) for pair in _BETTER_WORSE.split(",")]  # j and k: stack-exchange-paired
TWO_SIDES = (("a", "b"), ("0", "1"), ("1", "2"), ("left", "right"), ("first", "second"), ("x", "y"))
ANSWERS = {"response", "answer", "completion", "text", "output", "message", "conversation", "dialogue", "dialog"}
ANSWERS |= {"summary", "reply", "generation", "content", "candidate"}
ANSWERS |= {f"{word}s" for word in ANSWERS} | {"summaries", "replies"}
MOSTLY = 0.9
TEXTUAL: set[Shape] = {"text", "dialogue", "message", "texts", "exchanges", "struct"}


@dataclass(frozen=True)
class Head:
    """What recognition sees of a corpus: its columns, rows of several files, and which leaves hold values at all."""

    schema: pa.Schema
    rows: list[Row]
    filled: frozenset[str]

    def shape(self, path: str) -> Shape:
        seen = Counter(shape_of(decode_json(value) if path in self.json else value) for value in self.values(path))
        seen.pop("nothing", None)
        if not self.values(path) and path in self.schema.names:
            return _shape_of_type(self.schema.field(path).type)
        return seen.most_common(1)[0][0] if seen else "nothing"

    def values(self, path: str) -> list[Any]:
        """What is not null there, of all rows."""
        return [value for value in (pick(row, path) for row in self.rows) if value is not None]

    @cached_property
    def json(self) -> tuple[str, ...]:
        """Columns whose strings are messages, or lists of texts, as JSON."""
        return tuple(name for name in self.schema.names if self._holds_json(name))

    def _holds_json(self, name: str) -> bool:
        texts = [value for value in self.values(name) if value != ""]
        if not texts or not all(isinstance(text, str) for text in texts):
            return False
        return sum(decode_json(text) is not None for text in texts) >= MOSTLY * len(texts)

    def length(self, path: str) -> float:
        """Mean characters of the values there."""
        values = self.values(path)
        return sum(len(str(value)) for value in values) / max(1, len(values))

    def is_text(self, path: str) -> bool:
        return self.shape(path) in TEXTUAL

    def has(self, path: str) -> bool:
        return path in self.schema.names or (path.partition(".")[0] in self.schema.names and bool(self.values(path)))

    def is_filled(self, name: str) -> bool:
        """Whether any row of the corpus holds a value there, by the files' statistics."""
        return any(leaf == name or leaf.startswith(f"{name}.") for leaf in self.filled)

    def partners(self, words: Iterable[tuple[str, str]], names: Iterable[str]) -> Iterator[tuple[str, str, set[str]]]:
        """Columns whose names are the same but for two of the words, with the other words of their names."""
        by_tokens = {tuple(tokens(name)): name for name in names}
        for one, other in words:
            for parts, name in by_tokens.items():
                for index, part in enumerate(parts):
                    partner = by_tokens.get((*parts[:index], other, *parts[index + 1 :]))
                    if part == one and partner is not None:
                        yield name, partner, {*parts[:index], *parts[index + 1 :]}


def may_hold_text(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold a text or messages."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    kinds = pa.types.is_string, pa.types.is_large_string, pa.types.is_nested, pa.types.is_null
    return any(is_kind(kind) for is_kind in kinds)


def _shape_of_type(kind: pa.DataType) -> Shape:
    """What a column without a value in the first rows may hold."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        names = {kind.value_type.field(i).name for i in range(kind.value_type.num_fields)}
        return "dialogue" if names & {"role", "from"} else "other"
    return "nothing"

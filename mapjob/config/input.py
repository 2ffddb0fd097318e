"""The part of a run file that says which corpus is read, and how; and what every part of a run file is."""

import math
from collections.abc import Sequence
from datetime import date
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """What every part of the run file is: a frozen mapping in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    explained_by: ClassVar[str] = "mapjob config schema"  # the command that lists the keys


Value = bool | int | float | str


class Verdict(Section):
    """Which of two answers is the better one, by a column, a sign or two scores; everything else is a tie."""

    column: str | None = Field(None, description="whose values name the better answer")
    first: tuple[Value, ...] = Field((), description="values of column by which the first answer is chosen")
    second: tuple[Value, ...] = Field((), description="values of column by which the second answer is chosen")
    sign: str | None = Field(
        None, description="column of numbers: negative chooses the first answer, positive the other"
    )
    higher: tuple[str, str] | None = Field(None, description="columns of the answers' scores: the higher is chosen")

    @model_validator(mode="after")
    def _one(self) -> "Verdict":
        given = [name for name in ("column", "sign", "higher") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of column, sign, higher (given: {', '.join(given) or 'none'})")
        if (self.column is None) == bool(self.first or self.second):
            raise ValueError("first and second are the values of column: give all three")
        if self.column is not None and not (self.first and self.second):
            raise ValueError("give values for both sides, first and second; all others are ties")
        both = [value for value in self.first if value in self.second]
        if both:
            raise ValueError(f"{both[0]!r} chooses both sides: give it to first or to second")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The columns that decide."""
        return self.higher or tuple(filter(None, (self.column, self.sign)))

    def side(self, values: Sequence[Any]) -> int | None:
        """Which answer the values of `paths` choose: 0, 1, or None for a tie."""
        if self.column is not None:
            known = [same_kind(values[0], value) for value in (*self.first, *self.second)]
            return None if True not in known else int(known.index(True) >= len(self.first))
        numbers = list(map(as_number, values))
        less, more = (0.0, numbers[0]) if self.sign is not None else (numbers[0], numbers[1])
        return 1 if less < more else 0 if less > more else None


def as_number(value: Any) -> float:
    """A number, also one that is written in a string; NaN for anything else."""
    try:
        return math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def same_kind(value: Any, other: Value) -> bool:
    """Equal, and both truth values or neither: True is 1 in Python, and in no corpus."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


class Reading(Section):
    """Which columns hold what; paths with dots lead into structs. What is null is worked out and printed."""

    prompt: tuple[str, ...] | None = Field(
        None, description="columns of the prompt in their order; a column called system* is a system turn"
    )
    sides: tuple[str, str] | None = Field(None, description="the columns of the two answers: chosen, rejected")
    responses: str | None = Field(None, description="the column that holds N answers")
    verdict: Verdict | None = Field(None, description="which answer is chosen; null: the first")
    ignore: tuple[str, ...] = Field(
        (), description="columns that a trainer would read, or that say which side is better"
    )

    @model_validator(mode="after")
    def _sides_or_responses(self) -> "Reading":
        if self.sides is not None and self.responses is not None:
            raise ValueError("give sides (two columns) or responses (one column of N answers), not both")
        return self


class Columns(Section):
    """Columns beside the texts."""

    id: str | None = Field(None, description="column to use as pair_id; null: a hash of the pair's text")
    group: str | None = Field(None, description="column that reports go by")


class Input(Section):
    path: str | list[str] = Field(
        description="folder, file, glob, or a list of them; local, any fsspec URL, or org/name[@revision] of the hub"
    )
    split: str | list[str] | None = Field(
        None,
        description="a name, a list, or all; null: train, where file names or the README's configs name splits",
    )
    reading: Reading = Field(Reading(), description="null: worked out from the first rows and printed as YAML")
    columns: Columns = Field(Columns(), description="columns beside the texts")
    plain_text: Literal["auto", "chat", "raw"] = Field("auto", description="how plain strings meet the models")
    template_date: date = Field(
        date(2024, 7, 26), description="the day that chat templates see which ask for today (strftime_now)"
    )

    @field_validator("reading", mode="before")
    @classmethod
    def _null_is_worked_out(cls, value: Any) -> Any:
        return Reading() if value is None else value

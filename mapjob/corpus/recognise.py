"""Which layout a corpus has, from its Arrow schema and its first rows."""

import pyarrow as pa

from mapjob.config import Columns
from mapjob.corpus.layouts import LAYOUTS, Row
from mapjob.errors import ConfigError, InputError

HH_OPENING = "\n\nHuman:"


def renames(columns: Columns) -> dict[str, str]:
    """Layout's column name -> the corpus's own, for every column that the run file renames."""
    names = {name: getattr(columns, name) for name in ("prompt", "chosen", "rejected", "responses")}
    return {name: own for name, own in names.items() if own is not None}


def recognise(schema: pa.Schema, head: list[Row], columns: Columns, where: str) -> tuple[str, str]:
    """(layout, why) for rows that are already renamed. Raises InputError when nothing fits."""
    has = set(schema.names) | set(renames(columns))
    first = next((row for row in head if row.get("chosen") is not None), {})
    whole = _is_whole_dialogue(first.get("chosen"))
    if {"prompt", "responses"} <= has and "chosen" not in has:
        return "candidates", "a prompt and a list of responses"
    if {"conversations", "chosen", "rejected"} <= has:
        return "sharegpt", "conversations of {from, value}, one chosen and one rejected turn"
    if {"prompt", "chosen", "rejected"} <= has:
        if whole:
            return "ultrafeedback", "a prompt beside chosen and rejected that are whole dialogues"
        kind = "strings" if isinstance(first.get("chosen"), str) else "messages"
        return "trl", f"prompt, chosen and rejected ({kind})"
    if {"chosen", "rejected"} <= has and whole:
        return "openrlhf", "chosen and rejected are whole dialogues"
    if {"chosen", "rejected"} <= has and str(first.get("chosen", "")).startswith(HH_OPENING):
        return (
            "hh",
            'chosen and rejected are dialogues of "Human:" and "Assistant:" turns; the prompt is their common start',
        )
    raise InputError(
        f"no known layout has these columns: {', '.join(schema.names)}",
        where,
        "name the columns in input.columns (prompt: ..., chosen: ..., rejected: ...), or set input.layout",
    )


def check_columns(layout: str, schema: pa.Schema, columns: Columns, where: str) -> None:
    """Raises ConfigError when the layout, or the run file, names a column that the corpus lacks, and InputError when
    one of the layout's columns is of a type that holds no text in any row."""
    renamed = renames(columns)
    needed = [renamed.get(name, name) for name in LAYOUTS[layout].columns]
    needed += [name for name in (columns.id, columns.group, *renamed.values()) if name]
    for name in dict.fromkeys(needed):
        if name not in schema.names:
            raise ConfigError(
                f"the corpus has no column {name!r}, which layout {layout} or input.columns asks for",
                where,
                f"its columns are: {', '.join(schema.names)}",
            )
    for name in LAYOUTS[layout].columns:
        field = schema.field(renamed.get(name, name))
        if not _may_hold_text(field.type):
            raise InputError(
                f"the column {field.name!r}, read as {name}, is of the type {field.type}, which is neither text nor "
                "a list of messages",
                where,
                "write it as a string column, or name another one in input.columns",
            )


def _may_hold_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    kinds = pa.types.is_string, pa.types.is_large_string, pa.types.is_nested, pa.types.is_null
    return any(is_kind(kind) for is_kind in kinds)


def _is_whole_dialogue(chosen: object) -> bool:
    """Messages that start with the user's or the system's turn, so that the prompt is inside them."""
    return (
        isinstance(chosen, list)
        and len(chosen) > 1
        and isinstance(chosen[0], dict)
        and chosen[0].get("role") in ("user", "system")
    )

"""A run file with every key, each explained: those that are given, and behind a # the defaults of all others."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from mapjob.config.input import Section
from mapjob.config.run import Config

WIDTH, COLUMN = 120, 44  # of the file, and where comments begin
NARROWEST = 40  # characters of a comment beside its key; behind a longer one it begins on the next line
MOST_CHOICES = 6  # that a comment lists


def write_run_file(tree: dict[str, Any]) -> str:
    """The run file of these keys and values, with all others as comments; it loads as the tree alone does."""
    return "\n".join([*_section(Config, tree, {}, ""), ""])


def _section(kind: type[Section], given: dict[str, Any] | None, defaults: dict[str, Any], indent: str) -> Iterator[str]:
    """given: None if the section itself is not. defaults: by key, where they are not those of the section."""
    for name, field in kind.model_fields.items():
        is_given = given is not None and name in given
        mark, about, inner = "" if is_given else "# ", _describe(field), section_of(field)
        default = defaults.get(name, None if field.is_required() else field.get_default())
        if inner and _is_spread(field) and not (is_given and not _fits(inner, given[name])):
            if not indent:
                yield ""
            yield from _lines(f"{mark}{indent}{name}:", about)
            inside = dict(default) if isinstance(default, Section) else {}
            yield from _section(inner, given[name] if is_given else None, inside, f"{indent}  ")
            continue
        if is_given and not field.is_required():
            about += f"; default {_flow(default)}"
        yield from _lines(f"{mark}{indent}{name}: {_flow(given[name] if is_given else default)}", about)


def _is_spread(field: FieldInfo) -> bool:
    """Whether the keys of a section follow below its name: not of one that is null or empty by default."""
    return field.is_required() or isinstance(field.get_default(), Section)


def _fits(kind: type[Section], value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= kind.model_fields.keys()


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, alone or by name."""
    waiting = [field.annotation]
    while waiting:
        kind = waiting.pop(0)
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
        waiting += get_args(kind)
    return None


def _describe(field: FieldInfo) -> str:
    """What a key is: its description, its choices, and the keys of a section that is null or empty by default."""
    inner, choices = section_of(field), _choices(field.annotation)
    words = field.description or (inner.__doc__ if inner else "") or ""
    words = words.strip().split("\n")[0].removesuffix(".")
    if 1 < len(choices) <= MOST_CHOICES:
        words += f" ({' | '.join(choices)})"
    if inner and not _is_spread(field) and inner.model_fields:
        keys = [
            name if part.is_required() else f"{name} ({_flow(part.default)})"
            for name, part in inner.model_fields.items()
        ]
        words += f". Keys: {', '.join(keys)}"
    return words


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [choice for part in get_args(kind) for choice in _choices(part)]


def _lines(text: str, about: str) -> Iterator[str]:
    """A line with its comment behind it; the rest of a long one, or of a long line, follows in lines of their own."""
    start = max(COLUMN, len(text) + 2)
    if WIDTH - start < NARROWEST:
        yield text
        text, start = "#", COLUMN
    first, *more = textwrap.wrap(about, WIDTH - start - 2)
    yield f"{text:<{start}}# {first}"
    yield from (f"{'#':<{start}}# {line}" for line in more)


def _flow(value: Any) -> str:
    plain = value.model_dump(mode="json") if isinstance(value, Section) else json.loads(json.dumps(value, default=str))
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")

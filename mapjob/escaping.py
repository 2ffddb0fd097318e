"""Values from the data, from paths and from others as inert text: for a terminal, HTML or Markdown, without secrets."""

import html
import re
import textwrap

WIDTH = 80  # columns of a terminal that people's lines fit into

# Moves a cursor, colours, retitles or reverses. Line breaks and tabs are left to `one_line`.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile(r"[\n\t]")
# user:password@ up to the last @, since passwords may hold / and @ (host:8080/name@v1 is none); and what signs a query.
_PASSWORD = r"(?<=://)[^/\s:@]*:(?!\d+(?:[/?#]|$))[^\s\"'<>]*@"
_SIGNATURE = r"(?<=[?&])[^=&/\s]*(?:key|secret|token|sig|credential|passw)[^=&/\s]*=[^&\s\"'<>]*"
_SECRET = re.compile(f"{_PASSWORD}|{_SIGNATURE}", re.I)


def redact(text: str) -> str:
    """The text without user:password and signatures in its URLs."""
    return _SECRET.sub("…", text)


def first_line(error: object) -> str:
    """The first line of an error's message without secrets; the name of its type if it has no message."""
    return redact(next(iter(str(error).strip().splitlines()), type(error).__name__))


def for_terminal(text: str) -> str:
    """Text of several lines with its control characters spelled out, so that a terminal prints and never obeys them."""
    return _CONTROLS.sub(_spell, text)


def one_line(value: object) -> str:
    """One value as one line: line breaks and tabs are spelled out too, so that it cannot pose as another line."""
    return _BREAKS.sub(_spell, for_terminal(str(value)))


def wrap(text: str) -> str:
    """Lines for people, broken between words to fit into WIDTH columns; what continues a line is indented."""
    return "\n".join(
        textwrap.fill(
            line,
            WIDTH,
            subsequent_indent=" " * (len(line) - len(line.lstrip()) + 4),
            break_long_words=False,  # such as a path, which people copy
            break_on_hyphens=False,
        )
        for line in text.splitlines()
    )


def html_text(value: object) -> str:
    """A value as HTML text, also within a quoted attribute: no markup can come out of it. Line breaks stay."""
    return html.escape(for_terminal(str(value)))


def markdown_code(value: object) -> str:
    """One value as inline code of a Markdown table: no markup, no HTML and no table cell can come out of it."""
    text = one_line(value).replace("|", "\\|")
    runs = (len(run) for run in re.findall("`+", text))
    fence = "`" * (1 + max(runs, default=0))
    edge = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""
    return f"{fence}{edge}{text}{edge}{fence}"


def _spell(character: re.Match[str]) -> str:
    return character.group().encode("unicode_escape").decode()

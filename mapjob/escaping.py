"""Values from the data, from paths and from elsewhere as text that does nothing where it is shown, without secrets."""

import html
import re

# What moves a cursor, colours, retitles or reverses; line breaks and tabs are left to `in_line`.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile(r"[\n\t]")
# user:password@ up to the last @, since passwords may hold / and @ (host:8080/name@v1 is none); and what signs a query.
_PASSWORD = r"(?<=://)[^/\s:@]*:(?!\d+(?:[/?#]|$))[^\s\"'<>]*@"
_SIGNATURE = r"(?<=[?&])[^=&/\s]*(?:key|secret|token|sig|credential|passw)[^=&/\s]*=[^&\s\"'<>]*"
_SECRET = re.compile(f"{_PASSWORD}|{_SIGNATURE}", re.I)


def redacted(text: str) -> str:
    """The text without user:password and signatures in its URLs."""
    return _SECRET.sub("…", text)


def first_line(said: object) -> str:
    """The line in which an error of others says what happened, without secrets; its name where it says nothing."""
    return redacted(next(iter(str(said).strip().splitlines()), type(said).__name__))


def on_terminal(text: str) -> str:
    """Text of several lines with its control characters spelled out, so that a terminal prints and never obeys them."""
    return _CONTROLS.sub(_spelled, text)


def in_line(value: object) -> str:
    """One value as one line: line breaks and tabs are spelled out too, so that it cannot pose as another line."""
    return _BREAKS.sub(_spelled, on_terminal(str(value)))


def in_markdown(value: object) -> str:
    """One value as inline code of a Markdown table: no markup, no HTML and no table cell can come out of it."""
    text = in_line(value).replace("|", "\\|")
    runs = (len(run) for run in re.findall("`+", text))
    fence = "`" * (1 + max(runs, default=0))
    edge = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""
    return f"{fence}{edge}{text}{edge}{fence}"


def in_html(value: object) -> str:
    """One value as one line of HTML text, or within a quoted attribute: no markup can come out of it."""
    return html.escape(in_line(value))


def text_in_html(text: str) -> str:
    """Text of several lines as HTML text, without markup."""
    return html.escape(on_terminal(text))


def _spelled(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()

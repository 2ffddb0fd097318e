"""Control tokens in text: strings that a tokenizer would read as structure, such as its end-of-turn marker."""

import re
from collections.abc import Sequence

from mapjob.corpus.records import Text


def control_pattern(markers: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the markers, the longest first; matches nothing when there are none."""
    return re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))) or r"(?!)")


def sanitized(text: Text, control: re.Pattern[str]) -> Text:
    """The text with a space put behind the first character of each control token, so that it is read as plain text."""
    if isinstance(text, list):
        return [{**message, "content": sanitized(message["content"], control)} for message in text]
    return control.sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", text)

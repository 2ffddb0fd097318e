"""A report as a parser reads it: elements, and the words of each section."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "path", "rect"}  # path and rect close themselves in SVG


class Parsed(HTMLParser):
    """tags: (name, attributes) of every element; words: of each section by its id, `head` before the first."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.styles: list[str] = []
        self.words: dict[str, str] = {}
        self.cells: dict[str, list[list[str]]] = {}
        self._section = "head"
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs)["id"]
        if tag == "tr":
            self.cells.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self.cells[self._section][-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag
        if tag in ("p", "dt", "dd", "h1", "h2", "h3"):
            self.handle_data("\n")

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.styles.append(data)
            return
        self.words[self._section] = self.words.get(self._section, "") + data
        if {"td", "th"} & set(self._open):
            self.cells[self._section][-1][-1] += data

    @property
    def text(self) -> str:
        return "".join(self.words.values())

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.tags]

    def row(self, section: str, start: str) -> list[str]:
        """The cells of the row of a section whose first starts so."""
        (row,) = [row for row in self.cells[section] if row[0].startswith(start)]
        return row


def loaded(page: str) -> list[str]:
    """Whatever a page would have a browser load or run."""
    parsed = Parsed(page)
    found = [name for name in parsed.names if name in {"script", "link", "img", "iframe", "object", "embed", "base"}]
    for name, attributes in parsed.tags:
        found += [f"{name} {key}" for key in attributes if key.startswith("on") or key in ("src", "srcset", "action")]
        found += [f"{name} {key}" for key, value in attributes.items() if "href" in key and not value.startswith("#")]
    values = [value or "" for _, attributes in parsed.tags for value in attributes.values()]
    outside = r"url\((?!#)[^)]*\)|@import|@font-face|https?:|//"
    return found + [match for value in values + parsed.styles for match in re.findall(outside, value)]

"""The start tags of an HTML text and where they stand, so that attributes can be changed and all else stays as it is.

Comments are not looked into, conditional ones for Outlook included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser

# A name (the token of a template's mark too), and a value in any of the three ways (HTML standard, section 13.1.2.3).
_attribute = re.compile(r"""([^\s"'<>/=][^\s"'<>/=]*)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'<>]+)))?""")
_name = re.compile(r"<\s*[^\s/>]+")


@dataclass(frozen=True, slots=True)
class Attribute:
    """raw: the value as it is written, without quotes; start, end: of the whole attribute in the text."""

    name: str
    raw: str
    start: int
    end: int

    @property
    def value(self) -> str:
        return unescape(self.raw)


@dataclass(frozen=True, slots=True)
class Tag:
    """start, end: of the tag in the text; insert: where one more attribute can stand."""

    name: str
    start: int
    end: int
    insert: int
    attributes: tuple[Attribute, ...]

    def get(self, name: str) -> Attribute | None:
        """The first of that name: the others do not count."""
        return next((attribute for attribute in self.attributes if attribute.name == name), None)


@dataclass(frozen=True, slots=True)
class Element:
    """A <style> with its content, which nothing nests in. start, end: of all of it."""

    tag: Tag
    start: int
    end: int
    content: str


def start_tags(html: str) -> list[Tag]:
    reader = _Tags(html)
    return reader.tags


def styles(html: str) -> list[Element]:
    reader = _Tags(html)
    return reader.styles


class _Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=False)
        self.tags: list[Tag] = []
        self.styles: list[Element] = []
        self._html = html
        self._lines = [0, *(match.end() for match in re.finditer("\n", html))]
        self.feed(html)
        self.close()

    def _here(self) -> int:
        line, column = self.getpos()
        return self._lines[line - 1] + column

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        start = self._here()
        text = self.get_starttag_text() or ""
        self.tags.append(_tag(tag, text, start))

    def handle_endtag(self, tag: str) -> None:
        last = self.tags[-1] if self.tags else None
        if tag == "style" and last is not None and last.name == "style":
            end = self._html.find(">", self._here()) + 1
            self.styles.append(Element(last, last.start, end or len(self._html), self._html[last.end : self._here()]))


def _tag(name: str, text: str, start: int) -> Tag:
    found = []
    head = _name.match(text)
    at = head.end() if head else len(text)
    insert = at
    for match in _attribute.finditer(text, at):
        raw = next((value for value in match.groups()[1:] if value is not None), "")
        found.append(Attribute(match[1].lower(), raw, start + match.start(), start + match.end()))
        insert = match.end()
    return Tag(name, start, start + len(text), start + insert, tuple(found))


def attribute(name: str, value: str) -> str:
    """As it is written in a tag. A value with quotes of one kind only keeps them."""
    value = value.replace("&", "&amp;").replace("<", "&lt;")
    if '"' in value and "'" not in value:
        return f"{name}='{value}'"
    return name + '="' + value.replace('"', "&quot;") + '"'


def edited(text: str, edits: Iterable[tuple[int, int, str]]) -> str:
    """The text with (start, end, replacement) done; they do not overlap."""
    out = []
    at = 0
    for start, end, replacement in sorted(edits):
        out += [text[at:start], replacement]
        at = end
    return "".join([*out, text[at:]])

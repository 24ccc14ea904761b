"""An HTML part as the rules see it: its links, images and oddities, found in one pass."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from bulkmail.message.lint import markup

MAX_PAGE = 1_000_000  # characters that are parsed; Gmail shows 102 KB
MAX_OPEN = 100  # elements among which the one is looked for that an end tag closes
MAX_LINKS = 5000  # and as many images: more are not looked at

# Elements that end where their parent does or never have an end (HTML, section 13.1.2.4): no end tag is missed.
# fmt: off
_ENDLESS = frozenset((
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr", "param",
    "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "html", "head", "body", "colgroup",
))
# fmt: on
# What a forgotten end tag of breaks the rest of the page in mail programs.
_PAIRED = frozenset(("a", "table", "div", "style", "title", "center", "ul", "ol"))
# Elements in the run of a line: around all others words end.
_INLINE = frozenset(("a", "b", "i", "u", "em", "strong", "span", "font", "small", "big", "sup", "sub", "code", "wbr"))
_INVISIBLE = frozenset(("script", "style", "title", "template"))
_hidden = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d])|opacity\s*:\s*0(?![.\d])")
# Styles from elsewhere; web fonts are left alone: where they are dropped another font is shown.
_import = re.compile(r"@import\s[^;]*", re.IGNORECASE).findall


@dataclass(slots=True)
class Link:
    href: str
    text: str = ""
    image: bool = False


@dataclass(slots=True)
class Image:
    src: str
    alt: str | None
    width: str
    height: str


@dataclass(slots=True)
class Page:
    """What one page has.

    text      what is seen of it; hidden: what CSS hides
    unclosed  the first element that is, with its line
    handlers  attributes such as onclick
    resources URLs of backgrounds
    """

    links: list[Link] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    elements: dict[str, int] = field(default_factory=dict)
    handlers: list[str] = field(default_factory=list)
    stylesheets: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    unclosed: list[tuple[str, int]] = field(default_factory=list)
    text: str = ""
    base: str | None = None


def read(source: str) -> Page:
    """Any text; in linear time."""
    reader = _Reader()
    for token in markup.tokens(source[:MAX_PAGE]):
        if isinstance(token, str):
            reader.text(token)
        elif token.end:
            reader.end(token.name)
        else:
            reader.start(token.name, token.given or {}, token.at)
    return reader.finish(source)


class _Reader:
    def __init__(self) -> None:
        self.page = Page()
        self._open: list[tuple[str, int]] = []
        self._texts: list[str] = []
        self._anchor: Link | None = None
        self._anchor_texts: list[str] = []
        self._unseen = ""  # the element whose text is not shown
        self._hiding: tuple[int, str, list[str]] | None = None

    def start(self, tag: str, given: dict[str, str], at: int) -> None:
        page = self.page
        self._end_word(tag)
        page.elements[tag] = page.elements.get(tag, 0) + 1
        if len(page.handlers) < MAX_LINKS:
            page.handlers += [name for name in given if name.startswith("on")]
        if tag in _INVISIBLE and not self._unseen:
            self._unseen = tag
        if tag in _PAIRED:
            self._open.append((tag, at))
        self._note(tag, given)
        style = given.get("style", "")
        if self._hiding is None and tag not in _ENDLESS and (_hidden.search(style.lower()) or "hidden" in given):
            self._hiding = (1, tag, [])
        elif self._hiding is not None and tag == self._hiding[1]:
            self._hiding = (self._hiding[0] + 1, tag, self._hiding[2])

    def _note(self, tag: str, given: dict[str, str]) -> None:
        page = self.page
        if tag == "a" and "href" in given:
            self._end_anchor()
            self._anchor, self._anchor_texts = Link(given["href"].strip()), []
        elif tag == "area" and "href" in given and len(page.links) < MAX_LINKS:
            page.links.append(Link(given["href"].strip(), given.get("alt", ""), True))
        elif tag == "img" and len(page.images) < MAX_LINKS:
            width, height = given.get("width", ""), given.get("height", "")
            page.images.append(Image(given.get("src", "").strip(), given.get("alt"), width, height))
            if self._anchor is not None:
                self._anchor.image = True
        elif tag == "link" and "stylesheet" in given.get("rel", "").lower():
            self._note_styles([given.get("href", "")])
        elif tag == "base" and "href" in given and page.base is None:
            page.base = given["href"].strip()
        if tag in ("td", "table", "body", "div") and given.get("background"):
            page.resources.append(given["background"].strip())

    def _note_styles(self, found: list[str]) -> None:
        self.page.stylesheets += [text for text in found[:MAX_LINKS] if "font" not in text.lower()]

    def end(self, tag: str) -> None:
        self._end_word(tag)
        if tag == "a":
            self._end_anchor()
        if tag == self._unseen:
            self._unseen = ""
        if self._hiding is not None and tag == self._hiding[1]:
            depth, _, texts = self._hiding
            self._hiding = (depth - 1, tag, texts) if depth > 1 else None
            if depth == 1:
                self._end_hiding(texts)
        if tag in _PAIRED:
            for place in range(len(self._open) - 1, max(len(self._open) - MAX_OPEN, -1), -1):
                if self._open[place][0] == tag:
                    del self._open[place]
                    break

    def text(self, data: str) -> None:
        if self._unseen:
            if self._unseen == "style":
                self._note_styles(_import(data))
            return
        if self._hiding is not None:
            self._hiding[2].append(data)
        self._texts.append(data)
        if self._anchor is not None:
            self._anchor_texts.append(data)

    def _end_word(self, tag: str) -> None:
        if tag not in _INLINE:
            self._texts.append(" ")
            if self._hiding is not None:
                self._hiding[2].append(" ")
            if self._anchor is not None:
                self._anchor_texts.append(" ")

    def _end_anchor(self) -> None:
        if self._anchor is None:
            return
        self._anchor.text = " ".join("".join(self._anchor_texts).split())
        if len(self.page.links) < MAX_LINKS:
            self.page.links.append(self._anchor)
        self._anchor = None

    def _end_hiding(self, texts: list[str]) -> None:
        text = " ".join("".join(texts).split())
        if text:
            self.page.hidden.append(text)

    def finish(self, source: str) -> Page:
        self._end_anchor()
        if len(source) <= MAX_PAGE:
            self.page.unclosed = [(tag, source.count("\n", 0, at) + 1) for tag, at in self._open[:1]]
        self.page.text = " ".join("".join(self._texts).split())
        return self.page

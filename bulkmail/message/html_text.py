"""A plain text part out of an HTML part, as people write one: paragraphs, lists, links behind their words.

Tokens of template marks are words or, those of statements, nothing; both stay where they are. The libraries that do
this lay tables out in columns, escape for Markdown or drop links, and they move or lose what stands between tags.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser

from bulkmail.message.marked import STATEMENT, statement_token, value_token

_SKIPPED = frozenset(
    {"head", "script", "style", "title", "template", "noscript", "select", "textarea", "object", "svg"}
)
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
)
# Elements that begin a line, with the empty lines around them.
_BLOCKS = dict.fromkeys(("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "pre", "blockquote", "hr"), 2) | (
    dict.fromkeys(("div", "section", "article", "header", "footer", "main", "aside", "nav", "form", "center"), 1)
    | dict.fromkeys(("table", "tr", "li", "dt", "dd", "address", "figure", "figcaption", "caption", "body", "html"), 1)
)
_hidden = re.compile(r"display\s*:\s*none|mso-hide\s*:\s*all", re.I).search
_pieces = re.compile(f"({STATEMENT}\\d+\ufdd2)")
_RULE = "-" * 40
_MANY = 9  # more line breaks than any element asks for


def html_to_text(html: str, kind: Callable[[str], str] = lambda mark: "") -> str:
    """Text with line feeds between lines; "" where nothing is shown. Linear in time.

    kind    what the token of a statement is: it opens something ("if") or something that repeats ("loop"), stands
            between two bodies ("else"), closes ("end"), or shows nothing ("")
    """
    reader = _Reader(kind)
    reader.feed(html)
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    def __init__(self, kind: Callable[[str], str]) -> None:
        super().__init__(convert_charrefs=True)
        self._kind = kind
        self._frames: list[_Frame] = []  # statements that are open
        self._fresh: frozenset[_Frame] = frozenset()  # loops of which nothing is written yet
        self._out: list[str] = []
        self._pending = 0  # line breaks that are due before the next word
        self._blank = False  # a blank that is due before the next word
        self._ended = _MANY  # line breaks at the end of the text, 0 within a line
        self._skip: list[str] = []  # elements that are not shown, outermost first
        self._lists: list[int | None] = []
        self._pre = 0
        self._first_cell = False  # of a row
        self._links: list[_Link] = []  # those that are open

    def text(self) -> str:
        while self._links:
            self._links.pop().give_up(self._out)
        text = re.sub(r"[ \t]+\n", "\n", "".join(self._out)).rstrip()
        return text + "\n" if text else ""

    # ---- what is read

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in reversed(attrs)}
        tag_text = self.get_starttag_text() or ""
        later = "".join(mark[0] for mark in statement_token.finditer(given.get("href", "")))
        if tag != "a" or self._skip or later != "".join(mark[0] for mark in statement_token.finditer(tag_text)):
            self._statements_of(tag_text)
            later = ""
        if self._skip[:1] == ["p"] and tag in _BLOCKS:
            self._skip.clear()  # the end of a paragraph may be left out
        if self._skip:
            if tag == self._skip[0] and tag not in _VOID:
                self._skip.append(tag)
            return
        if tag in _SKIPPED or "hidden" in given or _hidden(given.get("style", "")):
            if tag not in _VOID:
                self._skip.append(tag)
            return
        self._break(1 if tag in ("ul", "ol") and self._lists else _BLOCKS.get(tag, 0))
        if tag == "br":
            self._newline()
        elif tag == "hr":
            self._words(_RULE)
            self._break(2)
        elif tag == "img":
            self._words(given["alt"] if STATEMENT not in given.get("alt", STATEMENT) else "")
        elif tag == "a":
            self._links.append(_Link(given.get("href", "").strip(), len(self._out), later))
        elif tag == "pre":
            self._pre += 1
        elif tag in ("ul", "ol"):
            self._lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            self._item()
        elif tag == "tr":
            self._first_cell = True
        elif tag in ("td", "th"):
            if not self._first_cell and (self._fresh or not self._ended):
                self._gap()
            self._first_cell = False

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._skip:
            if tag == self._skip[0]:
                self._skip.pop()
            return
        if tag == "a" and self._links:
            self._link(self._links.pop())
        elif tag == "pre":
            self._pre = max(self._pre - 1, 0)
        elif tag in ("ul", "ol") and self._lists:
            self._lists.pop()
        self._break(_BLOCKS.get(tag, 0) if tag not in ("ul", "ol") or not self._lists else 1)

    def handle_data(self, data: str) -> None:
        for piece in _pieces.split(data):
            if piece.startswith(STATEMENT):
                self._statement(piece)
            elif not self._skip:
                self._words(piece)

    def handle_comment(self, data: str) -> None:
        self._statements_of(data)

    def handle_decl(self, decl: str) -> None:
        self._statements_of(decl)

    handle_pi = unknown_decl = handle_comment

    # ---- what is written

    def _statements_of(self, text: str) -> None:
        """Those where nothing is shown: they show nothing, and stay."""
        for mark in statement_token.finditer(text):
            self._statement(mark[0])

    def _statement(self, mark: str) -> None:
        """What is due is due whether the statement shows anything or not, so it comes before it."""
        if not self._skip:
            self._flush()
            self._lists = [None] * len(self._lists)  # how often a numbered entry is shown nobody knows
            kind = self._kind(mark)
            if kind in ("if", "loop"):
                self._frames.append(_Frame(self._ended, self._fresh))
                if kind == "loop":
                    self._fresh |= {self._frames[-1]}
                    self._first_cell = False
            elif kind and self._frames:
                self._end_of_body(kind == "end")
        self._out.append(mark)
        if self._frames:
            self._frames[-1].begin = self._frames[-1].begin or len(self._out)

    def _end_of_body(self, last: bool) -> None:
        """What is behind it may follow any of the bodies, or none; what is in a loop may follow itself."""
        frame = self._frames[-1]
        if frame.required > self._ended:
            self._out.insert(frame.begin, "\n" * frame.required)
        frame.required = 0
        frame.least = min(frame.least, self._ended)
        self._ended = frame.least if last else frame.before
        self._fresh = frame.fresh
        if last:
            self._frames.pop()

    def _words(self, text: str) -> None:
        if self._pre:
            if text:
                self._flush()
                self._put(text)
            return
        for i, word in enumerate(re.split(r"[ \t\r\n\f]+", text)):
            if i:
                self._blank = True
            if word:
                self._flush()
                self._put(word)

    def _put(self, text: str) -> None:
        self._out.append(text)
        self._ended = len(text) - len(text.rstrip("\n"))
        self._fresh = frozenset()

    def _flush(self) -> None:
        """Writes the line breaks or the blank that are due."""
        if self._pending:
            self._out.append("\n" * self._pending)
            self._ended += self._pending
        elif self._blank and (self._fresh or not self._ended):
            self._out.append(" ")
        self._pending, self._blank = 0, False

    def _break(self, lines: int) -> None:
        """lines: 1 for a new line, 2 for an empty one between; of several the most count."""
        self._pending = max(self._pending, lines - self._ended)
        for frame in self._fresh if lines <= self._ended else ():
            frame.required = max(frame.required, lines)

    def _newline(self) -> None:
        self._flush()
        if self._ended < _MANY:
            self._out.append("\n")
            self._ended += 1

    def _gap(self) -> None:
        if not self._pending:
            self._out.append("  ")
            self._blank = False

    def _item(self) -> None:
        self._flush()
        number = self._lists[-1] if self._lists else None
        depth = max(len(self._lists) - 1, 0)
        self._put("  " * depth + ("- " if number is None else f"{number}. "))
        self._ended = _MANY  # a paragraph stands beside it
        if number is not None:
            self._lists[-1] = number + 1

    def _link(self, link: _Link) -> None:
        """Puts the address behind the words, unless they say it, or it leads nowhere on paper."""
        words = "".join(self._out[link.begin :])
        shown, address = statement_token.sub("", words).strip(), link.address
        known = address.lower().startswith(("http://", "https://", "mailto:", "tel:", STATEMENT))
        bare = re.sub(r"^(mailto:|tel:|https?://)", "", address, flags=re.I).rstrip("/")
        placed = link.marks or STATEMENT not in address
        if not placed or (link.marks and STATEMENT in words):
            return link.give_up(self._out)
        if not (known or value_token.match(address)) or shown in (address, bare, address.rstrip("/")):
            return link.give_up(self._out)
        self._words(f" ({address})" if shown else address)


class _Frame:
    """An open statement.

    before    line breaks that ended the text before it; least: of those that may end it behind the statement
    begin     where its text begins in the output
    required  line breaks between two turns of a loop, since a turn begins with a line of its own
    fresh     loops around it of which nothing was written when it began
    """

    __slots__ = ("before", "begin", "fresh", "least", "required")

    def __init__(self, before: int, fresh: frozenset[_Frame]) -> None:
        self.before = self.least = before
        self.fresh = fresh
        self.required = self.begin = 0


@dataclass(slots=True)
class _Link:
    """begin: where its words begin in the output; marks: the statements of its address that are not written yet."""

    address: str
    begin: int
    marks: str

    def give_up(self, out: list[str]) -> None:
        """The address is not shown; its statements are kept before the words."""
        if self.marks:
            out.insert(self.begin, self.marks)

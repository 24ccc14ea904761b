"""A plain text part out of an HTML part, as people write one: paragraphs, lists, links behind their words.

Tokens of template marks are words or, those of statements, nothing; both stay where they are. The libraries that do
this lay tables out in columns, escape for Markdown or drop links, and they move or lose what stands between tags.
"""

from __future__ import annotations

import re
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


def html_to_text(html: str) -> str:
    """Text with "\\n" between lines; "" where nothing is shown. Linear in time."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._out: list[str] = []
        self._pending = 0  # line breaks that are due before the next word
        self._blank = False  # a blank that is due before the next word
        self._ended = _MANY  # line breaks at the end of the text, 0 within a line
        self._skip: list[str] = []  # elements that are not shown, outermost first
        self._lists: list[int | None] = []
        self._pre = 0
        self._links: list[tuple[str, int]] = []  # address, where its words begin in _out

    def text(self) -> str:
        text = re.sub(r"[ \t]+\n", "\n", "".join(self._out)).rstrip()
        return text + "\n" if text else ""

    # ---- what is read

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in reversed(attrs)}
        self._statements_of(self.get_starttag_text() or "")
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
            self._links.append((given.get("href", "").strip(), len(self._out)))
        elif tag == "pre":
            self._pre += 1
        elif tag in ("ul", "ol"):
            self._lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            self._item()
        elif tag in ("td", "th") and not self._ended:
            self._gap()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._skip:
            if tag == self._skip[0]:
                self._skip.pop()
            return
        if tag == "a" and self._links:
            self._link(*self._links.pop())
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
        self._out.append(mark)

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

    def _flush(self) -> None:
        """Writes the line breaks or the blank that are due."""
        if self._pending:
            self._out.append("\n" * self._pending)
            self._ended += self._pending
        elif self._blank and not self._ended:
            self._out.append(" ")
        self._pending, self._blank = 0, False

    def _break(self, lines: int) -> None:
        """lines: 1 for a new line, 2 for an empty one between; of several the most count."""
        self._pending = max(self._pending, lines - self._ended)

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

    def _link(self, address: str, begin: int) -> None:
        """Puts the address behind the words, unless they say it, or it leads nowhere on paper."""
        shown = statement_token.sub("", "".join(self._out[begin:])).strip()
        known = address.lower().startswith(("http://", "https://", "mailto:", "tel:")) or value_token.match(address)
        bare = re.sub(r"^(mailto:|tel:|https?://)", "", address, flags=re.I).rstrip("/")
        if not known or STATEMENT in address or shown in (address, bare, address.rstrip("/")):
            return
        self._words(f" ({address})" if shown else address)

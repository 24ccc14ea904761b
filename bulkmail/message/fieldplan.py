"""The header fields of a message as plans: which are the same for everybody, and how each is made for one recipient."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bulkmail.errors import MessageError
from bulkmail.message import headers
from bulkmail.message.plan import Branch, Piece, Plan, Text, merged

_group = re.compile(r"[A-Za-z0-9 _-]+: *;").fullmatch  # an empty group, RFC 5322 section 3.4
_blank = re.compile(r"\s*").fullmatch


# What a kind is for `Compiled`, where that has another name.
_COMPILED = {"whole": "mailbox", "uris": "urls", "mailboxes": "mailbox", "ids": "other", "prepared": "other"}


@dataclass(slots=True)
class HeaderPlan:
    """One header field.

    kind    "text"; "mailboxes" (plans: display name and address by turns); "whole" (plans: nothing, and a mailbox that
            is known only when rendered); "uris"; "ids"; "prepared"; "date"; "message_id"; "fixed": `line` as it is
    what    the manifest's key, for errors
    comments  of "uris": for people, one for each, "" for none
    utf8    its addresses may have local parts beyond ASCII, since the envelope's sender has one
    """

    kind: str
    name: str
    what: str = ""
    plans: Sequence[list[Piece]] = ()
    line: bytes = b""
    comments: Sequence[str] = ()
    utf8: bool = False

    @property
    def constant(self) -> bool:
        return self.kind not in ("date", "message_id") and all(isinstance(p, Text) for plan in self.plans for p in plan)

    def make(self, texts: Sequence[str], email: str) -> bytes:
        """The field from its rendered plans. raises  MessageError"""
        if self.kind == "fixed":
            return self.line
        if self.kind == "prepared":
            return headers.prepared(self.name, texts[0], self.what)
        texts = [headers.check_value(text, self.what) for text in texts]
        if self.kind == "text":
            return headers.unstructured(self.name, texts[0])
        if self.kind == "uris":
            return headers.uris(self.name, texts, self.what, self.comments)
        if self.kind == "ids":
            return headers.message_ids(self.name, texts[0], self.what)
        boxes = (
            [headers.parse_one(texts[1], self.what)]
            if self.kind == "whole"
            else zip(texts[::2], texts[1::2], strict=True)
        )
        return headers.mailboxes(self.name, boxes, self.what, self.utf8 or email)

    def line_of(self) -> bytes:
        """The field of a constant plan."""
        return self.make([text_of(plan) for plan in self.plans], "")

    def for_compiled(self) -> tuple[str, bytes, list[list[Piece]], Callable[..., bytes] | None, str]:
        """What `Compiled` takes."""
        if self.constant:
            return "const", self.line_of(), [], None, self.what
        prefix = f"{self.name}: ".encode()
        kind = _COMPILED.get(self.kind, self.kind)
        if (self.kind == "mailboxes" and len(self.plans) > 2) or any(self.comments):
            kind = "other"
        fallback: Callable[..., bytes] = headers.legal_uri if kind == "urls" else self.make
        return kind, prefix, list(self.plans), fallback, self.what


def text_of(plan: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in plan if isinstance(piece, Text))


def text_header(name: str, plan: Plan) -> HeaderPlan:
    """raises  MessageError  for a line break in its constant text"""
    check_pieces(plan.pieces, plan.source.key)
    return HeaderPlan("text", name, plan.source.key, [plan.pieces])


def ids_header(name: str, plan: Plan) -> HeaderPlan:
    """raises  MessageError  for constant text that is no message id"""
    check_pieces(plan.pieces, plan.source.key)
    header = HeaderPlan("ids", name, plan.source.key, [plan.pieces])
    if plan.constant:
        header.line_of()
    return header


def prepared_header(name: str, plan: Plan) -> HeaderPlan:
    """raises  MessageError  for a constant value that no header can carry"""
    header = HeaderPlan("prepared", name, plan.source.key, [plan.pieces])
    if plan.constant:
        header.line_of()
    return header


def uri_header(name: str, what: str, plans: Sequence[list[Piece]]) -> HeaderPlan:
    for plan in plans:
        check_pieces(plan, what)
    return HeaderPlan("uris", name, what, plans)


def address_header(name: str, plan: Plan, *, one: bool = False, utf8: bool = False) -> HeaderPlan:
    """A header of mailboxes. What stands before `<` is one name, whatever a recipient puts into it: commas, brackets.

    utf8    see HeaderPlan
    one     several mailboxes are refused (RFC 5322 section 3.6.2 for Sender; receivers of bulk mail for From)
    raises  MessageError
    """
    what = plan.source.key
    check_pieces(plan.pieces, what)
    if plan.constant and not one and _group(plan.text):
        return HeaderPlan("fixed", name, what, [], f"{name}: {plan.text}\r\n".encode())
    if plan.constant:
        boxes: list[list[Piece]] = []
        for phrase, address in headers.parse_mailboxes(plan.text, what):
            boxes += [[Text(phrase)], [Text(address)]]
        header = HeaderPlan("mailboxes", name, what, boxes, utf8=utf8)
        header.line_of()  # refuses what cannot be sent
    else:
        header = replace(_templated(name, what, list(_mailboxes(plan.pieces, what))), utf8=utf8)
    if one and len(header.plans) > 2:
        raise MessageError(f"{what}: one address is expected, found {len(header.plans) // 2}")
    return header


def _templated(name: str, what: str, boxes: list[tuple[list[Piece] | None, list[Piece]]]) -> HeaderPlan:
    if len(boxes) == 1 and boxes[0][0] is None:
        return HeaderPlan("whole", name, what, [[], boxes[0][1]])
    flat: list[list[Piece]] = []
    for phrase, address in boxes:
        flat += [phrase or [], address]
    return HeaderPlan("mailboxes", name, what, flat)


def _mailboxes(pieces: Sequence[Piece], what: str) -> Iterator[tuple[list[Piece] | None, list[Piece]]]:
    """(display name, address) of each mailbox in a template; the name is None where there are no angle brackets."""
    box = _Box(what)
    for piece in pieces:
        if not isinstance(piece, Text):
            box.add(piece)
            continue
        for character in piece.text:
            if box.character(character):
                yield box.taken()
                box = _Box(what)
    yield box.taken()


class _Box:
    """A mailbox being read; only the template's own quotes, commas and brackets count, never those in a value."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._phrase: list[Piece] = []
        self._address: list[Piece] = []
        self._plain: list[Piece] = []  # all of it, for a mailbox without brackets
        self._quoted = self._escaped = self._angle = self._closed = False

    def add(self, piece: Piece) -> None:
        self._plain.append(piece)
        if self._closed:
            raise MessageError(f"{self._what}: nothing may follow '>' in an address")
        (self._address if self._angle else self._phrase).append(piece)

    def character(self, c: str) -> bool:
        """returns  True for the comma that ends the mailbox"""
        if c == "," and not self._quoted and not self._angle:
            return True
        self._plain.append(Text(c))
        if self._escaped or (c not in '<>"\\' and not self._closed):
            self._escaped = False
            (self._address if self._angle else self._phrase).append(Text(c))
        elif c == '"':
            self._quoted = not self._quoted
            if self._angle:
                self._address.append(Text(c))
        elif c == "\\" and self._quoted:
            self._escaped = True
            if self._angle:
                self._address.append(Text(c))
        elif self._quoted:
            (self._address if self._angle else self._phrase).append(Text(c))
        elif c == "<" and not self._angle and not self._closed:
            self._angle = True
        elif c == ">" and self._angle:
            self._angle, self._closed = False, True
        elif not _blank(c):
            raise MessageError(f"{self._what}: {c!r} is out of place; expected: Name <address>, odd names in quotes")
        return False

    def taken(self) -> tuple[list[Piece] | None, list[Piece]]:
        if self._quoted or self._angle:
            raise MessageError(f"{self._what}: {'a quote' if self._quoted else chr(60)!r} is never closed")
        return (merged(self._phrase), merged(self._address)) if self._closed else (None, merged(self._plain))


def check_pieces(pieces: Sequence[Piece], what: str) -> None:
    """raises  MessageError  for constant text that no header can carry, in any branch"""
    for piece in pieces:
        if isinstance(piece, Text):
            headers.check_value(piece.text, what)
        elif isinstance(piece, Branch):
            check_pieces(piece.then, what)
            check_pieces(piece.orelse, what)

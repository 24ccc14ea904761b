"""The frame of a message: its MIME structure, with holes where texts go.

one text         itself                      several forms    multipart/alternative, the richest last
cid or images    multipart/related of the html part           attachments    multipart/mixed around all

Forms are in the order that Gmail and Nodemailer have: text, watch, AMP, html, calendar, others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from bulkmail.message.parameters import content_type, disposition
from bulkmail.message.spec import Attached, Encoding

# Bytes from which on a piece of a message is kept by itself: it is then shared by all copies, and never copied.
LARGE = 1 << 15

Frame: TypeAlias = "list[bytes | int]"

_line_start_dot = re.compile(rb"^\.", re.MULTILINE).sub


@dataclass(frozen=True, slots=True)
class TextPart:
    """A part whose content goes into a hole.

    key        the manifest's
    type       "text/plain"; parameters: those of it, the charset among them
    salt       what boundaries depend on: the text itself, where its encoding would let a boundary through
    file       the name of the file that it is; None: a form of the message
    """

    key: str
    type: str
    encoding: Encoding = "quoted-printable"
    parameters: dict[str, str] = field(default_factory=dict)
    salt: bytes = b""
    file: str | None = None

    def head(self) -> bytes:
        lines = [
            content_type(self.type, self.parameters, self.file),
            b"Content-Transfer-Encoding: " + self.encoding.encode() + b"\r\n",
        ]
        if self.file is not None:
            lines.append(disposition("attachment", self.file))
        return b"".join(lines)


def as_file(part: TextPart, name: str) -> TextPart:
    """The same text once more, as an attachment; an event is one for calendars that know no invitations."""
    kind, parameters = ("application/ics", {}) if part.type == "text/calendar" else (part.type, part.parameters)
    return replace(part, type=kind, parameters=parameters, file=name)


@dataclass(slots=True)
class _Multi:
    subtype: str
    parts: list[_Node]


_Node: TypeAlias = "int | Attached | _Multi"


def frame(texts: Sequence[TextPart], attached: Sequence[Attached], *, dots: bool) -> Frame:
    """The message around its texts: bytes, and for each text its place in `texts` once, in this order.

    The first piece begins with the headers that say what the content is. An encoded text goes into its place and ends
    with CRLF. Pieces of LARGE bytes and more are objects of their own: the bodies of attachments as they are.
    texts   at least one form of the message comes first, files last
    dots    lines that begin with one are escaped, for the wire
    """
    writer = _Writer(texts, _boundary(texts, attached))
    writer.add(b"MIME-Version: 1.0\r\n")
    writer.node(_tree(texts, attached))
    return writer.pieces(dots)


def is_html(part: TextPart) -> bool:
    return part.type == "text/html" and part.file is None


def _tree(texts: Sequence[TextPart], attached: Sequence[Attached]) -> _Node:
    forms: list[_Node] = [place for place, text in enumerate(texts) if text.file is None]
    files: list[_Node] = [place for place, text in enumerate(texts) if text.file is not None]
    # What has a content id belongs to the page; inline without one does not: nothing in the page can refer to it.
    html = next((place for place, text in enumerate(texts) if is_html(text)), None)
    related = [item for item in attached if item.cid is not None and html is not None]
    if related:
        forms = [_Multi("related", [form, *related]) if form == html else form for form in forms]
    top = forms[0] if len(forms) == 1 else _Multi("alternative", forms)
    beside = [*files, *(item for item in attached if item not in related)]
    return _Multi("mixed", [top, *beside]) if beside else top


def _boundary(texts: Iterable[TextPart], attached: Iterable[Attached]) -> str:
    """The same content has the same boundaries. "=_" stands in no quoted-printable or base64 text (RFC 2045)."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text.key} {text.type}\n".encode() + text.salt)
    for item in attached:
        digest.update(item.head + item.digest.encode())
    return f"=_{digest.hexdigest()[:24]}"


class _Writer:
    """Writes the tree as pieces; boundaries are numbered from the outside."""

    def __init__(self, texts: Sequence[TextPart], boundary: str) -> None:
        self._texts, self._boundary, self._count = texts, boundary, 0
        self._out: Frame = []

    def add(self, piece: bytes | int) -> None:
        self._out.append(piece)

    def node(self, node: _Node) -> None:
        if isinstance(node, _Multi):
            self._multi(node)
        elif isinstance(node, int):
            self.add(self._texts[node].head() + b"\r\n")
            self.add(node)
        else:
            self.add(node.head + b"\r\n" if node.head else b"")
            self.add(node.body)

    def _multi(self, node: _Multi) -> None:
        self._count += 1
        boundary = f"{self._boundary}_{self._count}"
        # RFC 2387 section 3.1 asks for the type of the root.
        kind = {"type": "text/html"} if node.subtype == "related" else {}
        self.add(content_type(f"multipart/{node.subtype}", {**kind, "boundary": boundary}) + b"\r\n")
        for part in node.parts:
            self.add(f"--{boundary}\r\n".encode())
            self.node(part)
            # The line end before a boundary is the boundary's; that of base64 is nobody's.
            if not (isinstance(part, Attached) and part.encoding == "base64"):
                self.add(b"\r\n")
        self.add(f"--{boundary}--\r\n".encode())

    def pieces(self, dots: bool) -> Frame:
        """Neighbours as one piece, but for the large ones."""
        out: Frame = []
        small: list[bytes] = []
        for piece in self._out:
            if isinstance(piece, bytes) and len(piece) < LARGE:
                small.append(piece)
                continue
            out += [b"".join(small), piece]
            small = []
        out.append(b"".join(small))
        return [escape_dots(piece) if dots and isinstance(piece, bytes) else piece for piece in out if piece != b""]


def escape_dots(piece: bytes) -> bytes:
    """For the wire (RFC 5321 section 4.5.2); the piece begins a line. The same object where there is nothing to do."""
    # Base64 and our own fields never begin a line with a dot; an attached message or a ready part may.
    starts = piece.startswith(b".") or b"\n." in piece
    return _line_start_dot(b"..", piece) if starts else piece

"""The MIME parts of any bytes (RFC 2045, 2046), without trust.

The `email` package takes a second for a large attachment and recurses; this looks at each byte once or twice and is
bounded in depth and number.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from functools import cached_property

from bulkmail.message.lint import fields
from bulkmail.message.lint.fields import Field

MAX_DEPTH = 20  # multiparts in multiparts; mail programs give up earlier
MAX_PARTS = 1000  # of a message; each costs a little
MAX_PART_FIELDS = 200  # of one part
MAX_VALUE = 4096  # characters of a Content- field that are read; its parser is slow for hostile input
MAX_TEXT = 2_000_000  # bytes of a text part that are decoded; Gmail shows 102 KB


Span = tuple[int, int]  # from, to


@dataclass
class Part:
    """A part that is no multipart: its own fields, type in lower case, and the bytes as they stand."""

    fields: list[Field]
    type: str
    charset: str | None
    encoding: str
    disposition: str
    name: str | None
    cid: str | None
    body: bytes
    related: bool = False

    def content(self, most: int = MAX_TEXT) -> bytes:
        """The transfer encoding undone, at most `most` bytes of it."""
        data = self.body[: 4 * most]
        if self.encoding == "base64":
            return _base64(data)[:most]
        if self.encoding == "quoted-printable":
            return binascii.a2b_qp(data)[:most]
        return data[:most]

    @cached_property
    def text(self) -> tuple[str, str]:
        """(the text, why it may be wrong: "charset", "bytes" or "")."""
        data, name = self.content(), (self.charset or "us-ascii").lower()
        if not fields.is_charset(name):
            return data.decode("utf-8", "replace"), "charset"
        try:
            return data.decode(name), ""
        except Exception:  # a codec raises what it likes
            cut = len(data) == MAX_TEXT
            return data.decode("utf-8", "replace"), "" if cut else "bytes"


def _base64(data: bytes) -> bytes:
    """What is no base64 in it is passed over; a rest that makes no byte is dropped."""
    for padding in (b"", b"=", b"=="):
        try:
            return binascii.a2b_base64(data + padding)
        except binascii.Error:
            continue
    return b""


@dataclass(slots=True)
class Tree:
    """parts: in order; problems: sentences of what is wrong with the structure."""

    parts: list[Part] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def walk(own: list[Field], data: bytes, start: int = 0) -> Tree:
    """The parts of a message with these fields; its body begins at `start` of the data."""
    tree = Tree()
    _walk(own, data, (start, len(data)), 0, False, tree)
    return tree


def _walk(own: list[Field], data: bytes, span: Span, depth: int, related: bool, tree: Tree) -> None:
    # Only leaves are copied: of multiparts in multiparts each would hold the whole message again.
    header = _content_header(own)
    kind = _asked(header.get_content_type) or "text/plain"
    if not kind.startswith("multipart/"):
        tree.parts.append(_leaf(own, header, kind, data[span[0] : span[1]], related))
        return
    boundary = _boundary(header)
    if not boundary:
        tree.problems.append(f"a {kind} part has no boundary")
        return
    if depth == MAX_DEPTH:
        tree.problems.append(f"its multiparts are more than {MAX_DEPTH} deep")
        return
    pieces, closed = _pieces(data, span, boundary)
    if not pieces:
        tree.problems.append(f"the boundary of a {kind} part never comes")
    elif not closed:
        tree.problems.append(f"a {kind} part is never closed by its boundary")
    for start, end in pieces:
        if len(tree.parts) >= MAX_PARTS:
            tree.problems.append(f"it has more than {MAX_PARTS} parts")
            return
        head, start = fields.split_at(data, start, end)
        inner, _ = fields.parse(head, MAX_PART_FIELDS)
        _walk(inner, data, (start, end), depth + 1, related or kind == "multipart/related", tree)


def _content_header(own: list[Field]) -> Message:
    """The Content- fields for the standard library to read: it knows RFC 2231 and what people write instead."""
    header = Message()
    seen = set()
    for one in own:
        if one.key.startswith("content-") and one.key not in seen:
            seen.add(one.key)
            header[one.name] = one.value[:MAX_VALUE]
    return header


def _boundary(header: Message) -> bytes:
    return (_asked(header.get_boundary) or "").encode("utf-8", "surrogatepass")


def _asked(read: Callable[[], object]) -> str | None:
    try:
        value = read()
    except Exception:  # the parser raises whatever its parts do for hostile values
        return None
    return value if isinstance(value, str) else None


def _leaf(own: list[Field], header: Message, kind: str, body: bytes, related: bool) -> Part:
    given = {one.key: one.value for one in own}
    return Part(
        own,
        kind,
        _asked(header.get_content_charset),
        given.get("content-transfer-encoding", "7bit").strip().lower(),
        _asked(header.get_content_disposition) or "",
        _asked(header.get_filename),
        given["content-id"].strip(" <>") if "content-id" in given else None,
        body,
        related,
    )


def _pieces(data: bytes, span: Span, boundary: bytes) -> tuple[list[Span], bool]:
    """(the parts between the delimiters, whether the closing one is there)."""
    pieces: list[Span] = []
    start = -1
    for at, end, last in _delimiters(data, span, b"--" + boundary):
        if start >= 0:
            pieces.append((start, max(at, start)))
        start = end
        if last:
            return pieces, True
        if len(pieces) > MAX_PARTS:
            break
    if start >= 0:
        pieces.append((start, span[1]))
    return pieces, False


def _delimiters(data: bytes, span: Span, mark: bytes) -> Iterator[tuple[int, int, bool]]:
    """(where the part before ends, where the next begins, whether it is the last) of each delimiter line."""
    first, stop = span
    at = data.find(mark, first, stop)
    while at >= 0:
        end = data.find(b"\n", at, stop)
        end = stop if end < 0 else end + 1
        tail = data[at + len(mark) : end].strip()
        if (at == first or data[at - 1 : at] == b"\n") and tail in (b"", b"--"):
            before = at - 2 if data[at - 2 : at] == b"\r\n" else at - 1
            yield max(before, first), end, tail == b"--"
        at = data.find(mark, end, stop)

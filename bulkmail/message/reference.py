"""The slow way to make a message: Jinja2 renders everything, the standard library's `email` encodes everything.

It says what `Compiled` must mean (the tests compare the two), and gives previews their rendered text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

from bulkmail.errors import MessageError
from bulkmail.message import limits, mime
from bulkmail.message.fieldplan import HeaderPlan
from bulkmail.message.headers import check_value, checked_address, legal_uri, parse_one
from bulkmail.message.plan import Branch, Piece, Plan, Rendered, Test, Text, Value
from bulkmail.message.raw import from_wire
from bulkmail.message.template import Row, Scope


@dataclass(frozen=True, slots=True)
class RenderedMessage:
    """eml: the message, CRLF newlines; html, text: the parts as rendered, None where there is none."""

    eml: bytes
    html: str | None
    text: str | None


class Reference:
    """Renders the same plans as `Compiled`. header: the fields in wire order; base: stand-ins for what rows lack."""

    def __init__(
        self,
        header: Sequence[HeaderPlan],
        text: Plan | None,
        html: Plan | None,
        attached: Sequence[mime.Attached],
        base: dict[str, Any],
        raw: bytes | None = None,
    ) -> None:
        self._header, self._text, self._html = header, text, html
        self._attached, self._base, self._raw = attached, base, raw

    def render(self, row: dict[str, Any], message_id: str, date: bytes) -> RenderedMessage:
        """raises  MessageError"""
        if self._raw is not None:
            return RenderedMessage(self._raw, None, None)
        one = Row({**self._base, **row})
        text, html = self._body(self._text, one), self._body(self._html, one)
        message = mime.build(text, html, self._attached)
        for plan in self._header:
            self._set(message, plan, one, message_id, date)
        return RenderedMessage(message.as_bytes(), html, text)

    def preview(self, row: dict[str, Any], body: bytes) -> RenderedMessage:
        """body: as it goes out. raises  MessageError"""
        one = Row({**self._base, **row})
        return RenderedMessage(from_wire(body), self._body(self._html, one), self._body(self._text, one))

    def _body(self, plan: Plan | None, row: Row) -> str | None:
        if plan is None:
            return None
        made = row.render(plan.template, plan.source, Scope(), limits.MAX_CHARACTERS)
        if plan.whole:
            return made if made.endswith("\n") else made + "\n"
        return made + plan.tail

    def _set(self, message: EmailMessage, plan: HeaderPlan, row: Row, message_id: str, date: bytes) -> None:
        texts = [check_value(evaluate(pieces, row), plan.what) for pieces in plan.plans]
        if plan.kind == "date":
            message[plan.name] = date.decode()
        elif plan.kind == "message_id":
            message[plan.name] = message_id
        elif plan.kind == "fixed":
            message[plan.name] = plan.line.decode().partition(":")[2].strip()
        elif plan.kind == "text":
            message[plan.name] = texts[0]
        elif plan.kind == "uris":
            message[plan.name] = ", ".join(f"<{legal_uri(text).decode()}>" for text in texts)
        else:
            boxes = (
                [parse_one(texts[1], plan.what)] if plan.kind == "whole" else zip(texts[::2], texts[1::2], strict=True)
            )
            message[plan.name] = [
                Address(name, addr_spec=checked_address(address, plan.what, row.values["email"]))
                for name, address in boxes
            ]


def evaluate(pieces: Sequence[Piece], row: Row) -> str:
    """The text of a plan. raises  MessageError"""
    return "".join(_piece(piece, row) for piece in pieces)


def _piece(piece: Piece, row: Row) -> str:
    if isinstance(piece, Text):
        return piece.text
    if isinstance(piece, Rendered):
        return piece.slot(row)
    if isinstance(piece, Branch):
        return evaluate(piece.then if _outcome(piece.test, row) else piece.orelse, row)
    return _value(piece, row)


def _value(piece: Value, row: Row) -> str:
    value = row.values.get(piece.name, piece.default)
    if piece.name not in row.values and not piece.has_default:
        raise MessageError(f"{piece.where}: {piece.name!r} is undefined")
    if piece.falsy and not value:
        value = piece.default
    return str(value)


def _outcome(test: Test, row: Row) -> bool:
    if test.slot is not None:
        return bool(test.slot(row)) != test.negate
    if test.kind == "defined":
        return (test.name in row.values) != test.negate
    if test.name not in row.values:
        raise MessageError(f"{test.where}: {test.name!r} is undefined")
    value = row.values[test.name]
    return (bool(value) if test.kind == "true" else value == test.other) != test.negate

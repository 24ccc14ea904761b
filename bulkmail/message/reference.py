"""The slow way to make a message: Jinja2 renders everything, the standard library's `email` encodes everything.

It says what `Compiled` must mean: the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bulkmail.errors import MessageError
from bulkmail.message import limits
from bulkmail.message.fieldplan import HeaderPlan
from bulkmail.message.headers import check_value, checked_address, legal_uri, parse_one
from bulkmail.message.listplan import OWN_URL, OwnUrl
from bulkmail.message.mime import TextPart
from bulkmail.message.plan import Branch, Piece, Plan, Rendered, Test, Text, Value
from bulkmail.message.spec import Attached
from bulkmail.message.template import Row, Scope
from bulkmail.records import Record

if TYPE_CHECKING:
    from email.message import EmailMessage


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RenderedMessage(Record):
    """eml: the message, CRLF newlines; html, text: the parts as rendered, None where there is none."""

    eml: bytes
    html: str | None
    text: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Texts(Record):
    """The text parts of a message, each with its plan, and its attachments."""

    parts: Sequence[tuple[TextPart, Plan]] = ()
    attached: Sequence[Attached] = ()


class Reference:
    """Renders the same plans as `Compiled`. header: the fields in wire order; base: stand-ins for what rows lack."""

    def __init__(
        self, header: Sequence[HeaderPlan], content: Texts, base: dict[str, Any], raw: bytes | None = None
    ) -> None:
        self._header, self._content, self._base, self._raw = header, content, base, raw
        self.own_url: OwnUrl | None = None

    def _row(self, row: dict[str, Any]) -> Row:
        """What templates may name. raises  MessageError"""
        values = {**self._base, **row}
        if self.own_url is not None:
            text = check_value(evaluate(self.own_url.pieces, Row(values)), "list_unsubscribe")
            values[OWN_URL] = self.own_url.finish(text)
        return Row(values)

    def render(self, row: dict[str, Any], message_id: str, date: bytes) -> RenderedMessage:
        """raises  MessageError"""
        if self._raw is not None:
            return RenderedMessage(self._raw, None, None)
        from bulkmail.message.by_email import build  # a job that composes all its messages never comes here

        one = self._row(row)
        rendered = self._rendered(one)
        message = build([(part, rendered[part.key]) for part, _ in self._content.parts], self._content.attached)
        for plan in self._header:
            self._set(message, plan, one, message_id, date)
        return RenderedMessage(message.as_bytes(), rendered.get("html"), rendered.get("text"))

    def _rendered(self, row: Row) -> dict[str, str]:
        return {part.key: _rendered(plan, row) for part, plan in self._content.parts}

    def _set(self, message: EmailMessage, plan: HeaderPlan, row: Row, message_id: str, date: bytes) -> None:
        texts = [evaluate(pieces, row) for pieces in plan.plans]
        if plan.kind in ("ids", "prepared"):
            made = plan.make(texts, row.values["email"]).decode()
            if made:
                message[plan.name] = made.partition(":")[2].replace("\r\n", "").strip()
            return
        texts = [check_value(text, plan.what) for text in texts]
        if plan.kind == "date":
            message[plan.name] = date.decode()
        elif plan.kind == "message_id":
            message[plan.name] = message_id
        elif plan.kind == "fixed":
            message[plan.name] = plan.line.decode().partition(":")[2].strip()
        elif plan.kind == "text":
            message[plan.name] = texts[0]
        elif plan.kind == "uris":
            entries = zip(texts, plan.comments or [""] * len(texts), strict=True)
            message[plan.name] = ", ".join(
                f"<{legal_uri(text).decode()}>" + (f" ({comment})" if comment else "") for text, comment in entries
            )
        else:
            boxes = (
                [parse_one(texts[1], plan.what)] if plan.kind == "whole" else zip(texts[::2], texts[1::2], strict=True)
            )
            from email.headerregistry import Address

            message[plan.name] = [
                Address(name, addr_spec=checked_address(address, plan.what, plan.utf8 or row.values["email"]))
                for name, address in boxes
            ]


def _rendered(plan: Plan, row: Row) -> str:
    made = row.render(plan.template, plan.source, Scope(), limits.MAX_CHARACTERS)
    if plan.whole:
        return made if made.endswith("\n") else made + "\n"
    return made + plan.tail


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

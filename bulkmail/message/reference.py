"""The slow way to make a message: Jinja2 renders everything, the standard library's `email` encodes everything.

It says what `Compiled` must mean: the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_bytes
from email.headerregistry import Address
from email.message import EmailMessage, MIMEPart
from email.policy import SMTP
from typing import Any

from bulkmail.errors import MessageError
from bulkmail.message import limits
from bulkmail.message.attach import Attached
from bulkmail.message.fieldplan import HeaderPlan
from bulkmail.message.headers import check_value, checked_address, legal_uri, parse_one
from bulkmail.message.listplan import OWN_URL, OwnUrl
from bulkmail.message.mime import TextPart, is_html
from bulkmail.message.plan import Branch, Piece, Plan, Rendered, Test, Text, Value
from bulkmail.message.template import Row, Scope


@dataclass(frozen=True, slots=True)
class RenderedMessage:
    """eml: the message, CRLF newlines; html, text: the parts as rendered, None where there is none."""

    eml: bytes
    html: str | None
    text: str | None


@dataclass(frozen=True, slots=True)
class Texts:
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
            message[plan.name] = [
                Address(name, addr_spec=checked_address(address, plan.what, plan.utf8 or row.values["email"]))
                for name, address in boxes
            ]


def _rendered(plan: Plan, row: Row) -> str:
    made = row.render(plan.template, plan.source, Scope(), limits.MAX_CHARACTERS)
    if plan.whole:
        return made if made.endswith("\n") else made + "\n"
    return made + plan.tail


def build(texts: Sequence[tuple[TextPart, str]], attached: Sequence[Attached]) -> EmailMessage:
    """The whole message but for its own headers, by the standard library, its parts as `mime.frame` has them."""
    forms = [_text(part, text) for part, text in texts if part.file is None]
    beside = [_text(part, text) for part, text in texts if part.file is not None]
    html = next((place for place, (part, _) in enumerate(texts) if is_html(part)), None)
    related = [item for item in attached if item.cid is not None and html is not None]
    if html is not None and related:
        forms[html] = _multipart("related", [forms[html], *map(_attachment, related)])
    beside += [_attachment(item) for item in attached if item not in related]
    top = forms[0] if len(forms) == 1 else _multipart("alternative", forms)
    top = _multipart("mixed", [top, *beside]) if beside else top
    message = EmailMessage(policy=SMTP)
    message["MIME-Version"] = "1.0"
    for name, value in top.items():
        message[name] = value
    message.set_payload(top.get_payload())
    return message


def _multipart(subtype: str, parts: list[MIMEPart]) -> MIMEPart:
    whole = MIMEPart(policy=SMTP)
    whole["Content-Type"] = f"multipart/{subtype}"
    whole.set_payload(list[Any](parts))
    return whole


def _text(part: TextPart, text: str) -> MIMEPart:
    made = MIMEPart(policy=SMTP)
    maintype, _, subtype = part.type.partition("/")
    options: dict[str, Any] = {} if part.file is None else {"disposition": "attachment", "filename": part.file}
    parameters = {key: value for key, value in part.parameters.items() if key != "charset"}
    if maintype == "text":
        made.set_content(text, subtype=subtype, cte="base64", params=parameters, **options)
    else:
        made.set_content(text.replace("\n", "\r\n").encode(), maintype, subtype, params=parameters, **options)
    return made


def _attachment(item: Attached) -> MIMEPart:
    if item.ready:
        return message_from_bytes(item.body, _class=MIMEPart, policy=SMTP)
    made = MIMEPart(policy=SMTP)
    maintype, _, subtype = item.type.partition("/")
    options: dict[str, Any] = {"disposition": "inline" if item.inline else "attachment", "filename": item.name}
    if item.cid is not None:
        options["cid"] = f"<{item.cid}>"
    if item.type == "message/rfc822":
        made.set_content(message_from_bytes(item.data, policy=SMTP), **options)
    else:
        made.set_content(item.data, maintype, subtype, params=item.parameters, **options)
    return made


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

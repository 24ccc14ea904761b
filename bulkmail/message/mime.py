"""The frame of a message: its MIME structure, made once by the standard library's `email`, with holes where text goes.

text             text/plain                  text and html    multipart/alternative
cid or inline    multipart/related of the html part           attachments    multipart/mixed around all
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage, Message, MIMEPart
from email.policy import SMTP
from typing import Any

from bulkmail.errors import MessageError
from bulkmail.message.spec import AttachmentSpec

# Encoded text that only the frame has: letters, so that every transfer encoding leaves them as they are.
HOLES = {"text": "BULKMAILHOLEFORTHETEXTPART", "html": "BULKMAILHOLEFORTHEHTMLPART"}

_type = re.compile(
    r"([A-Za-z0-9!#$&^_.+-]+)/([A-Za-z0-9!#$&^_.+-]+)((?:\s*;\s*[A-Za-z0-9!#$&^_.+-]+=(?:[^\s\";]+|\"[^\"\r\n]*\"))*)\s*"
).fullmatch
_parameter = re.compile(r";\s*([^=]+)=(?:\"([^\"]*)\"|([^\s;]+))").findall
_cid = re.compile(r"[!-;=?-~]+").fullmatch
_unfit = re.compile(r"[\x00-\x1f\x7f]").search
_line_start_dot = re.compile(rb"^\.", re.MULTILINE).sub


@dataclass(frozen=True, slots=True)
class Attached:
    """An attachment with its bytes read and everything decided."""

    data: bytes
    type: str
    parameters: dict[str, str]
    name: str
    cid: str | None
    inline: bool


def load_attachment(spec: AttachmentSpec, what: str = "attachments") -> Attached:
    """raises  MessageError  naming `what`: an unreadable file, broken base64, a type that is none, not one source"""
    data = _content(spec, what)
    name = spec.name or (spec.file.name if spec.file is not None else "attachment")
    kind, parameters = _split_type(spec, name, what)
    if isinstance(spec.content, str) and kind.startswith("text/"):
        parameters["charset"] = "utf-8"
    if _unfit(name):
        raise MessageError(f"{what}: the name {name!r} has a line break or control character")
    cid = spec.cid.strip("<>") if spec.cid is not None else None
    if cid is not None and not _cid(cid):
        raise MessageError(f"{what}: cid {spec.cid!r}, expected printable characters without spaces and angle brackets")
    return Attached(data, kind, parameters, name, cid, spec.inline or cid is not None)


def _content(spec: AttachmentSpec, what: str) -> bytes:
    given = [key for key in ("file", "content", "base64") if getattr(spec, key) is not None]
    if len(given) != 1:
        found = " and ".join(map(repr, given)) or "none"
        raise MessageError(f"{what}: one of 'file', 'content' and 'base64' is expected, found {found}")
    if spec.file is not None:
        try:
            return spec.file.read_bytes()
        except OSError as error:
            raise MessageError(f"{what}: {spec.file} cannot be read: {error.strerror or error}") from None
    if isinstance(spec.content, bytes):
        return spec.content
    if spec.content is not None:
        return spec.content.encode()
    try:
        return base64.b64decode("".join((spec.base64 or "").split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessageError(f"{what}: 'base64' is not base64: {error}") from None


def _split_type(spec: AttachmentSpec, name: str, what: str) -> tuple[str, dict[str, str]]:
    if spec.type is None:
        guessed, packed = mimetypes.guess_type(name)
        return (guessed if guessed and not packed else "application/octet-stream"), {}
    found = _type(spec.type)
    if found is None or found[1].lower() == "multipart":
        raise MessageError(f"{what}: type {spec.type!r}, expected a content type such as application/pdf")
    parameters = {key.strip().lower(): quoted or plain for key, quoted, plain in _parameter(found[3])}
    return f"{found[1]}/{found[2]}".lower(), parameters


def build(text: str | None, html: str | None, attached: Sequence[Attached]) -> EmailMessage:
    """The whole message but for its own headers; a message without any part has an empty text part."""
    message = EmailMessage(policy=SMTP)
    if text is not None or html is None:
        message.set_content(text or "", cte="quoted-printable")
    if html is not None:
        (message.set_content if text is None else message.add_alternative)(html, subtype="html", cte="quoted-printable")
        for item in attached:
            if _is_related(item):
                _attach(_html_part(message), item, related=True)
    for item in attached:
        if html is None or not _is_related(item):
            _attach(message, item, related=False)
    _fix_boundaries(message, text, html, attached)
    return message


def _is_related(item: Attached) -> bool:
    # Inline without a content id is not part of the page: nothing in it can refer to it.
    return item.cid is not None


def _html_part(message: EmailMessage) -> MIMEPart:
    """The html part, or the multipart/related that it has become."""
    if message.get_content_type() == "multipart/alternative":
        return message.get_payload()[-1]  # type: ignore[return-value,index]
    return message


def _attach(message: MIMEPart, item: Attached, *, related: bool) -> None:
    maintype, _, subtype = item.type.partition("/")
    options: dict[str, Any] = {"disposition": "inline" if item.inline else "attachment", "filename": item.name}
    if item.cid is not None:
        options["cid"] = f"<{item.cid}>"
    add = message.add_related if related else message.add_attachment
    if item.type == "message/rfc822":
        # RFC 2046 section 5.2.1: base64 is not allowed for these; the email package flattens the parsed message.
        inner: Message = message_from_bytes(item.data, policy=SMTP)
        add(inner, **options)
    else:
        add(item.data, maintype=maintype, subtype=subtype, params=item.parameters, **options)


def _fix_boundaries(message: EmailMessage, text: str | None, html: str | None, attached: Sequence[Attached]) -> None:
    """The same content has the same boundaries. "=_" stands in no quoted-printable or base64 text (RFC 2045)."""
    digest = hashlib.sha256(repr((text, html)).encode("utf-8", "surrogatepass"))
    for item in attached:
        digest.update(item.data)
    parts = [part for part in message.walk() if part.get_content_maintype() == "multipart"]
    outer = [part for part in parts if not _inside_rfc822(message, part)]
    for number, part in enumerate(outer, 1):
        part.set_boundary(f"=_{digest.hexdigest()[:24]}_{number}")


def _inside_rfc822(message: Message, wanted: Message) -> bool:
    return any(
        part.get_content_type() == "message/rfc822" and any(inner is wanted for inner in part.walk())
        for part in message.walk()
    )


def frame(kinds: Sequence[str], attached: Sequence[Attached], *, dots: bool) -> list[bytes]:
    """The message around its text parts: n + 1 pieces for n kinds ("text", "html", in this order).

    The first begins with the headers that say what the content is. Encoded text goes between the pieces and ends with
    CRLF.
    dots: lines that begin with one are escaped, for the wire.
    """
    holes = {kind: HOLES[kind] for kind in kinds}
    rest = build(holes.get("text"), holes.get("html"), attached).as_bytes()
    pieces = []
    for kind in kinds:
        before, hole, rest = rest.partition(HOLES[kind].encode() + b"\r\n")
        assert hole, "the frame has a hole for each text part"
        pieces.append(before)
    pieces.append(rest)
    # Base64 and headers never begin a line with a dot; a message/rfc822 attachment may.
    return [_line_start_dot(b"..", piece) for piece in pieces] if dots else pieces

"""Ready messages, composed elsewhere: bytes that go out as they are, but for newlines (CRLF) and Bcc fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bulkmail.errors import MessageError
from bulkmail.message.headers import checked_address, is_message_id
from bulkmail.wire.body import encode_body, encode_message, end_body, undotted
from bulkmail.wire.transaction import Body

if TYPE_CHECKING:
    from email.message import Message

# A field with its continuation lines (RFC 5322 section 2.2.3).
_bcc = re.compile(rb"^(?:resent-)?bcc[ \t]*:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", re.IGNORECASE | re.MULTILINE)
_field = re.compile(rb"[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")
_escaped_dot = re.compile(rb"^\.\.", re.MULTILINE).sub
_first_line = re.compile(rb"[!-9;-~]+[ \t]*:").match


def crlf(data: bytes) -> bytes:
    """Every CRLF, CR and LF as CRLF, and one at the end. The same bytes if that is so already."""
    encoded, carry = encode_body(data, 0)
    if encoded is data and carry == 0:  # most are, and this is the fastest look at every byte
        return data
    lines = bytes(undotted(encoded, 0)) + end_body(carry).removesuffix(b".\r\n")
    return data if len(lines) == len(data) or not data else lines


def prepare(data: bytes, what: str = "raw") -> bytes:
    """A ready message with CRLF newlines and without Bcc and Resent-Bcc.

    raises  MessageError  naming `what` for what does not begin with a header field, or holds a NUL
    """
    data = crlf(data)
    if not _first_line(data):
        raise MessageError(f"{what}: a message begins with a header such as 'From: ', found {data[:40]!r}")
    if b"\0" in data:
        raise MessageError(f"{what}: there is a NUL at byte {data.index(0)}, which no mail may hold")
    if b"bcc" not in data[: data.find(b"\r\n\r\n")].lower():
        return data
    head, body = split(data)
    return _bcc.sub(b"", head) + body


def wire_ready(data: bytes) -> bytes:
    """A prepared message for the DATA phase: dots escaped, the final dot behind it (RFC 5321 section 4.5.2)."""
    return encode_message(data)


def from_wire(body: Body) -> bytes:
    """What the server stores: wire_ready taken back."""
    body = b"".join(body) if isinstance(body, tuple) else body
    return _escaped_dot(b".", body.removesuffix(b".\r\n"))


def replace_fields(data: bytes, made: Mapping[int, bytes]) -> bytes:
    """The message with other fields (whole lines) in the places that `made` names; the first field is 0."""
    head, body = split(data)
    found = _field.findall(head)
    return b"".join(made.get(place, field) for place, field in enumerate(found)) + body


def split(data: bytes) -> tuple[bytes, bytes]:
    """Header section and the rest, which begins with the empty line if there is one."""
    end = data.find(b"\r\n\r\n")
    return (data, b"") if end < 0 else (data[: end + 2], data[end + 2 :])


def envelope_of(data: bytes, what: str = "raw") -> tuple[str | None, list[str]]:
    """(sender, recipients) by the header: Sender, else From; To, Cc and Bcc, each address once.

    Of a message that is sent on (RFC 5322 section 3.6.6) the Resent- fields count instead.
    raises  MessageError  naming `what` and the field for an address that cannot be used, and where it was sent on more
                          than once: which of the fields belong together is then not certain
    """
    fields = _fields(data)
    times = len(fields.get_all("Resent-Date", []))
    if times > 1:
        raise MessageError(
            f"{what}: it was sent on {times} times (Resent-Date), so its envelope cannot be told from its header"
        )
    resent = "Resent-" if times else ""
    senders = _addresses(fields, resent + "Sender", what) or _addresses(fields, resent + "From", what)
    recipients = [address for name in ("To", "Cc", "Bcc") for address in _addresses(fields, resent + name, what)]
    return (senders[0] if senders else None), list(dict.fromkeys(recipients))


def message_id_of(data: bytes) -> str:
    """The Message-ID of a ready message, "" if it has none that is one."""
    try:
        text = str(_fields(data)["Message-ID"] or "").strip()
    except Exception:  # the parser raises whatever its parts do for hostile values
        return ""
    return text if is_message_id(text) else ""


def _fields(data: bytes) -> Message:
    from email.parser import HeaderParser
    from email.policy import SMTPUTF8

    head = split(crlf(data))[0].decode("utf-8", "surrogateescape")
    return HeaderParser(policy=SMTPUTF8).parsestr(head)


def _addresses(fields: Any, name: str, what: str) -> list[str]:
    try:
        found = [box.addr_spec for value in fields.get_all(name, []) for box in value.addresses]
    except Exception as error:  # the parser raises whatever its parts do for hostile values
        raise MessageError(f"{what}: the header {name} cannot be read: {error}") from None
    return [checked_address(address, f"{what}, header {name}", allow=True) for address in found]

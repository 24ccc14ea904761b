"""One message from a program: `Message`, `Attachment`, and `to_wire`, which takes whatever a caller has.

Nothing here is a template: braces are text.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.message import Message as EmailPackageMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from bulkmail.address import domain_of
from bulkmail.errors import ConfigError, MessageError
from bulkmail.message import headers as fields
from bulkmail.message import mime, raw
from bulkmail.message.compiled import encode_text
from bulkmail.message.spec import AttachmentSpec, ListUnsubscribe

Addresses: TypeAlias = str | Iterable[str] | None

# Named by the interface, delivered later.
_LATER = frozenset({"dkim", "calendar", "amp", "inline_css", "alternatives"})
# Custom headers of one message may not repeat these; cc and bcc are arguments here, date and Message-ID as well.
_OURS = {
    **fields.OURS,
    "cc": "use 'cc'",
    "bcc": "use 'bcc'",
    "date": "use 'date'",
    "message-id": "use 'message_id'",
}


class Attachment:
    """A file of a message.

    source   a path, bytes, or a binary file (read now; a path is read when the message is composed)
    name     as shown; default: that of the path or file
    type     content type; default: guessed from the name
    cid      the HTML part refers to it as "cid:..."
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | BinaryIO,
        *,
        name: str | None = None,
        type: str | None = None,
        cid: str | None = None,
        inline: bool = False,
    ) -> None:
        file = content = None
        if isinstance(source, (str, os.PathLike)):
            file = Path(source)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            content = bytes(source)
        else:
            content = source.read()
            opened = getattr(source, "name", None)
            name = name or (os.path.basename(opened) if isinstance(opened, str) else None)
        if content is not None and not isinstance(content, bytes):
            raise MessageError("attachments: a file must be opened in binary mode")
        self.spec = AttachmentSpec(file=file, content=content, name=name, type=type, cid=cid, inline=inline)

    def __repr__(self) -> str:
        return f"Attachment({self.spec.name or self.spec.file or 'bytes'!s})"


class Message:
    """A message to a few recipients.

    to, cc, bcc, reply_to   "Ann <ann@example.com>", several separated by commas, or an iterable of such; Bcc reaches the
                            envelope only
    attachments             `Attachment`, or a path
    headers                 custom headers: a mapping, or (name, value) pairs where one repeats
    list_unsubscribe        a URL, or `ListUnsubscribe(url=, mailto=, one_click=)`
    envelope_from           the envelope's sender; default: `sender`, else `from_`; "" is the null sender
    date, message_id        default: the time when it is first composed, and a new one; then they stay

    raises  MessageError  when it is composed: an impossible address, a line break in a header, a missing file
    """

    def __init__(
        self,
        from_: str | None = None,
        to: Addresses = None,
        subject: str | None = None,
        text: str | None = None,
        html: str | None = None,
        cc: Addresses = None,
        bcc: Addresses = None,
        reply_to: Addresses = None,
        attachments: Iterable[Attachment | str | os.PathLike[str]] = (),
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        *,
        sender: str | None = None,
        date: datetime | str | None = None,
        message_id: str | None = None,
        envelope_from: str | None = None,
        list_unsubscribe: ListUnsubscribe | str | None = None,
        list_id: str | None = None,
        feedback_id: str | None = None,
        **later: Any,
    ) -> None:
        _refuse(later)
        self.from_, self.sender, self.envelope_from = from_, sender, envelope_from
        self.to, self.cc, self.bcc, self.reply_to = _listed(to), _listed(cc), _listed(bcc), _listed(reply_to)
        self.subject, self.text, self.html = subject, text, html
        self.attachments = [item if isinstance(item, Attachment) else Attachment(item) for item in attachments]
        self.headers: list[tuple[str, str]] = list(headers.items() if isinstance(headers, Mapping) else headers)
        self.list_unsubscribe = ListUnsubscribe(list_unsubscribe) if isinstance(list_unsubscribe, str) else list_unsubscribe
        self.list_id, self.feedback_id = list_id, feedback_id
        self.date, self.message_id = date, message_id

    def as_bytes(self) -> bytes:
        """The whole message, newlines CRLF, without Bcc. raises  MessageError"""
        kinds = [kind for kind in ("text", "html") if getattr(self, kind) is not None] or ["text"]
        attached = [mime.load_attachment(item.spec, f"attachments[{n}]") for n, item in enumerate(self.attachments)]
        first, *rest = mime.frame(kinds, attached, dots=False)
        out = [self._header(), first]
        for kind, after in zip(kinds, rest, strict=True):
            out += [_body(getattr(self, kind) or "", kind), after]
        return b"".join(out)

    def envelope(self) -> tuple[str, list[str]]:
        """(sender, recipients), each recipient once; nobody is no error here. raises  MessageError"""
        recipients = [
            fields.checked_address(address, key, allow=address)
            for key in ("to", "cc", "bcc")
            for _, address in _parsed(getattr(self, key), key)
        ]
        return self._envelope_sender(), list(dict.fromkeys(recipients))

    def with_defaults(self, defaults: Mapping[str, Any]) -> Message:
        """A copy where `defaults` (arguments of Message) fill what is not given; custom headers merge by name.

        raises  ConfigError  for a name that is no argument
        """
        given = {key: value for key, value in self._arguments().items() if value is not None and value != []}
        unknown = next((key for key in defaults if key not in self._arguments()), None)
        if unknown is not None:
            raise ConfigError(f"defaults: a message has no {unknown!r}")
        merged = {**defaults, **given}
        more = defaults.get("headers") or ()
        own = {name.lower() for name, _ in self.headers}
        pairs = more.items() if isinstance(more, Mapping) else more
        merged["headers"] = [*self.headers, *(pair for pair in pairs if pair[0].lower() not in own)]
        return Message(**merged)

    def lint(self) -> list[Any]:
        raise ConfigError("lint is not in this version yet")

    def _arguments(self) -> dict[str, Any]:
        return dict(vars(self))

    def _header(self) -> bytes:
        own = self._required_from()
        lines = [fields.mailboxes("From", [own], "from_")]
        if self.sender is not None:
            lines.append(fields.mailboxes("Sender", [_single(self.sender, "sender")], "sender"))
        for key, name in (("reply_to", "Reply-To"), ("to", "To"), ("cc", "Cc")):
            lines += self._addressed(key, name)
        lines.append(_text_field("Subject", self.subject or "", "subject"))
        lines.append(_text_field("Date", self._fixed_date(), "date"))
        lines.append(b"Message-ID: " + self._fixed_id(own[1]).encode() + b"\r\n")
        lines += self._list_fields()
        for name, value in self.headers:
            fields.check_name(name, _OURS)
            lines.append(_text_field(name, value, f"headers.{name}"))
        return b"".join(lines)

    def _required_from(self) -> tuple[str, str]:
        if self.from_ is None:
            raise MessageError("from_: it is missing, expected an address such as News <news@example.com>")
        return _single(self.from_, "from_")

    def _addressed(self, key: str, name: str) -> list[bytes]:
        boxes = _parsed(getattr(self, key), key)
        if boxes:
            checked = [(phrase, fields.checked_address(address, key, _allowed(address, key))) for phrase, address in boxes]
            return [fields.mailboxes(name, checked, key, allow=ANY)]
        # RFC 5322 section 3.6.3: somebody must be named, be it nobody.
        return [b"To: undisclosed-recipients:;\r\n"] if key == "to" and not self.cc else []

    def _list_fields(self) -> list[bytes]:
        lines = []
        given = self.list_unsubscribe
        if given is not None:
            lines.append(_unsubscribe(given))
            if given.one_click:
                lines.append(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n")
        if self.list_id is not None:
            lines.append(fields.list_id(self.list_id))
        if self.feedback_id is not None:
            lines.append(_text_field("Feedback-ID", self.feedback_id, "feedback_id"))
        return lines

    def _fixed_date(self) -> str:
        if self.date is None:
            self.date = datetime.now(UTC)
        return self.date if isinstance(self.date, str) else format_datetime(self.date)

    def _fixed_id(self, address: str) -> str:
        if self.message_id is None:
            self.message_id = f"<{uuid.uuid4().hex}@{domain_of(address)}>"
        text = fields.check_value(self.message_id, "message_id")
        text = text if text.startswith("<") else f"<{text}>"
        if not fields.is_message_id(text):
            raise MessageError(f"message_id: {self.message_id!r}, expected something like <unique@example.com>")
        return text

    def _envelope_sender(self) -> str:
        if self.envelope_from is not None:
            text = self.envelope_from.strip()
            return "" if text in ("", "<>") else _single(text, "envelope_from")[1]
        return _single(self.sender, "sender")[1] if self.sender is not None else self._required_from()[1]

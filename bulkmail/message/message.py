"""One message from a program: `Message`, `Attachment`, and `to_wire`, which takes whatever a caller has.

Nothing here is a template: braces are text.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.header import Header
from email.message import Message as EmailPackageMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from bulkmail.address import domain_of
from bulkmail.errors import ConfigError, MessageError
from bulkmail.message import headers as fields
from bulkmail.message import listmail, mime, raw
from bulkmail.message.compiled import encode_text
from bulkmail.message.spec import AttachmentSpec, ListLink, ListUnsubscribe

Addresses: TypeAlias = str | Iterable[str] | None
Links: TypeAlias = str | ListLink | Sequence[str | ListLink] | None

# Named by the interface, delivered later.
_LATER = frozenset({"dkim", "calendar", "amp", "inline_css", "alternatives"})
_ADDRESSED = frozenset({"from", "sender", "reply-to", "to", "cc", "bcc"})
_lone_surrogate = re.compile("[\ud800-\udfff]").search
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

    to, cc, bcc, reply_to   "Ann <ann@example.com>", several separated by commas, or an iterable of such; Bcc reaches
                            the envelope only
    attachments             `Attachment`, or a path
    headers                 custom headers: a mapping, or (name, value) pairs where one repeats
    list_unsubscribe        a URL, or {"url", "mailto", "one_click", "key"}, as a mapping or a `ListUnsubscribe`
    list_help, list_subscribe, list_post, list_owner, list_archive
                            a URL or an address, a `ListLink(url, comment)`, or several (RFC 2369)
    precedence              "bulk", "list", "junk"; auto_submitted: "auto-generated", "auto-replied" (RFC 3834)
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
        list_unsubscribe: ListUnsubscribe | Mapping[str, Any] | str | None = None,
        list_id: str | None = None,
        list_help: Links = None,
        list_subscribe: Links = None,
        list_post: Links = None,
        list_owner: Links = None,
        list_archive: Links = None,
        feedback_id: str | None = None,
        precedence: str | None = None,
        auto_submitted: str | None = None,
        **later: Any,
    ) -> None:
        _refuse(later)
        self.from_, self.sender, self.envelope_from = from_, sender, envelope_from
        self.to, self.cc, self.bcc, self.reply_to = _listed(to), _listed(cc), _listed(bcc), _listed(reply_to)
        self.subject, self.text, self.html = subject, text, html
        self.attachments = [item if isinstance(item, Attachment) else Attachment(item) for item in attachments]
        self.headers: list[tuple[str, str]] = list(headers.items() if isinstance(headers, Mapping) else headers)
        self.list_unsubscribe = listmail.parse_unsubscribe(list_unsubscribe)
        self.list_id, self.feedback_id = list_id, feedback_id
        self.list_help, self.list_subscribe, self.list_post = list_help, list_subscribe, list_post
        self.list_owner, self.list_archive = list_owner, list_archive
        self.precedence, self.auto_submitted = precedence, auto_submitted
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
        recipients = [address for key in ("to", "cc", "bcc") for _, address in _parsed(getattr(self, key), key)]
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
        made = {line.partition(b":")[0].lower().decode() for line in lines}
        for name, value in self.headers:
            fields.check_name(name, _OURS)
            if name.lower() in made:
                raise MessageError(f"headers: {name!r} is there already")
            lines.append(_text_field(name, value, f"headers.{name}"))
        return b"".join(lines)

    def _required_from(self) -> tuple[str, str]:
        if self.from_ is None:
            raise MessageError("from_: it is missing, expected an address such as News <news@example.com>")
        return _single(self.from_, "from_")

    def _addressed(self, key: str, name: str) -> list[bytes]:
        boxes = _parsed(getattr(self, key), key)
        if boxes:
            return [fields.mailboxes(name, boxes, key, allow=key != "reply_to")]
        # RFC 5322 section 3.6.3: somebody must be named, be it nobody.
        return [b"To: undisclosed-recipients:;\r\n"] if key == "to" and not self.cc else []

    def _list_fields(self) -> list[bytes]:
        lines = [listmail.unsubscribe_lines(self.list_unsubscribe)] if self.list_unsubscribe is not None else []
        if self.list_id is not None:
            lines.append(fields.list_id(self.list_id))
        links = {name: getattr(self, f"list_{name}") for name in listmail.LIST_FIELDS}
        lines += listmail.list_lines({name: given for name, given in links.items() if given is not None})
        if self.feedback_id is not None:
            lines.append(_text_field("Feedback-ID", self.feedback_id, "feedback_id"))
        stated = {key: getattr(self, key) for key in listmail.STATED}
        return lines + [listmail.stated(key, value) for key, value in stated.items() if value is not None]

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


def to_wire(message: Any, *, envelope: bool = True) -> tuple[bytes, str | None, list[str]]:
    """(content, sender, recipients) of a `Message`, an `email` message, bytes or a str.

    content   with CRLF newlines, without Bcc; of bytes nothing else is changed
    sender    None where nothing names one; recipients: of To, Cc and Bcc, maybe none
    envelope  False: the caller has one, and the header is not read for it (of ready bytes that takes 1 ms)
    raises    MessageError; TypeError for another type
    """
    if isinstance(message, Message):
        content = message.as_bytes()
        return content, *(message.envelope() if envelope else (None, []))
    if isinstance(message, EmailPackageMessage):
        data = _flattened(message)
    elif isinstance(message, str):
        data = _encoded(message, "the message")
    elif isinstance(message, (bytes, bytearray, memoryview)):
        data = bytes(message)
    else:
        raise TypeError(f"a message is a Message, an EmailMessage, bytes or str, not {type(message).__name__}")
    sender, recipients = raw.envelope_of(data, "the message") if envelope else (None, [])
    return raw.prepare(data, "the message"), sender, recipients


def _flattened(message: EmailPackageMessage) -> bytes:
    # The legacy policy writes whatever a header value holds: a line break there would begin another field.
    for name, value in message.raw_items():
        if fields.breaks_field(str(value)):
            raise MessageError(f"the message, header {name}: a line break or NUL cannot stand in a header")
    try:
        data = message.as_bytes(policy=message.policy.clone(linesep="\r\n"))
    except Exception as error:  # the generator raises whatever its parts do
        raise MessageError(f"the message cannot be flattened: {error}") from error
    made = {place: lines for place, item in enumerate(message.raw_items()) if (lines := _written_anew(*item))}
    return raw.replace_fields(data, made) if made else data


def _written_anew(name: str, value: Any) -> bytes:
    """A field of addresses that the email package would put into encoded-words, addresses and all; b"": none of these.

    RFC 2047 section 5 has them in names only. What is left to it are names beyond ASCII of the newer policies.
    """
    if name.lower().removeprefix("resent-") not in _ADDRESSED:
        return b""
    boxes = getattr(value, "addresses", None)
    if boxes is not None:
        if all(box.addr_spec.isascii() for box in boxes):
            return b""
        named = [(box.display_name, box.addr_spec) for box in boxes]
    elif isinstance(value, Header) or not value.isascii():
        text = str(value)
        if _lone_surrogate(text):  # bytes that somebody parsed: they are written as they were
            return b""
        named = fields.parse_mailboxes(" ".join(text.split()), f"the message, header {name}")
    else:
        return b""
    return fields.mailboxes(name, named, f"the message, header {name}", allow=True)


def _body(text: str, kind: str) -> bytes:
    text = text if text.endswith(("\n", "\r")) else text + "\n"
    return encode_text(_encoded(text, kind))


def _encoded(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MessageError(f"{what}: it is not valid Unicode: {error.reason} at character {error.start}") from None


def _text_field(name: str, value: str, what: str) -> bytes:
    return fields.unstructured(name, fields.check_value(value, what))


def _listed(given: Addresses) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


def _parsed(texts: Iterable[str], what: str) -> list[tuple[str, str]]:
    return [box for text in texts for box in fields.parse_mailboxes(text, what)]


def _single(text: str, what: str) -> tuple[str, str]:
    return fields.parse_one(fields.check_value(text, what), what)


def _refuse(later: Mapping[str, Any]) -> None:
    for name in later:
        if name in _LATER:
            raise ConfigError(f"{name!r} is not in this version yet")
        raise TypeError(f"Message has no argument {name!r}")

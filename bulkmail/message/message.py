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
from typing import Any, TypeAlias

from bulkmail.address import domain_of
from bulkmail.errors import ConfigError, MessageError
from bulkmail.message import headers as fields
from bulkmail.message import items, listmail, mime, raw
from bulkmail.message.attach import load_attachment
from bulkmail.message.dkim import Dkim, dkim_specs
from bulkmail.message.embed import embed_images
from bulkmail.message.encodings import check_encoding, choose_whole, encode_whole
from bulkmail.message.finding import Finding
from bulkmail.message.items import Attachment, Calendar, TextSource
from bulkmail.message.spec import Access, Attached, Encoding, ListLink, ListUnsubscribe, MessageSpec, Priority
from bulkmail.message.textparts import forms_of, part_of

__all__ = ["Attachment", "Calendar", "Message", "to_wire"]

Addresses: TypeAlias = str | Iterable[str] | None
Links: TypeAlias = str | ListLink | Sequence[str | ListLink] | None

_ADDRESSED = frozenset({"from", "sender", "reply-to", "to", "cc", "bcc"})
_breaks_name = re.compile(r"[\r\n\0:]").search
_lone_surrogate = re.compile("[\ud800-\udfff]").search
# Custom headers of one message may not repeat these; cc and bcc are arguments here, date and Message-ID as well.
_OURS = {
    **fields.OURS,
    "cc": "use 'cc'",
    "bcc": "use 'bcc'",
    "date": "use 'date'",
    "message-id": "use 'message_id'",
}


class Message:
    """A message to a few recipients.

    to, cc, bcc, reply_to   "Ann <ann@example.com>", several separated by commas, or an iterable of such; Bcc reaches
                            the envelope only
    text, html, amp, watch  the content, or a path or {"file": name} of it (read when the message is composed); AMP and
                            watch html go beside text and html
    calendar                an event: `Calendar`, its text, or {"method", "text" or "file", "name"}
    alternatives            further forms: (type, content) each
    attachments             `Attachment`, a path, a URL, or an object with the keys of a manifest's attachment
    headers                 custom headers in their order: a mapping, where a list of values repeats its header, or
                            (name, value) pairs; {"prepared": True, "value": ...} is sent as it is
    priority                "high", "normal" or "low"
    in_reply_to, references message ids
    list_unsubscribe        a URL, or {"url", "mailto", "one_click", "key"}, as a mapping or a `ListUnsubscribe`
    list_help, list_subscribe, list_post, list_owner, list_archive
                            a URL or an address, a `ListLink(url, comment)`, or several (RFC 2369)
    precedence              "bulk", "list", "junk"; auto_submitted: "auto-generated", "auto-replied" (RFC 3834)
    envelope_from           the envelope's sender; default: `sender`, else `from_`; "" is the null sender
    date, message_id        default: the time when it is first composed, and a new one; then they stay
    encoding                of the texts: "7bit", "8bit", "quoted-printable", "base64"; default: by what they hold
    embed_images            images that `html` names become inline attachments: True looks for files in the current
                            folder, a path in that folder, and nothing is read outside of it
    text_from_html          True: where `text` is missing, it is made of `html`
    inline_css              style sheets of `html` become style attributes: True looks for linked ones in the current
                            folder, a path in that folder, and nothing is read outside of it
    link_parameters         added to the links of `html`: {"utm_source": "news"}
    dkim                    `Dkim(domain, selector, key_file=)`, or several: as_bytes() is signed by each

    raises  MessageError  when it is composed: an impossible address, a line break in a header, a missing file
    """

    def __init__(
        self,
        from_: str | None = None,
        to: Addresses = None,
        subject: str | None = None,
        text: TextSource | None = None,
        html: TextSource | None = None,
        cc: Addresses = None,
        bcc: Addresses = None,
        reply_to: Addresses = None,
        attachments: Iterable[Any] = (),
        headers: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
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
        amp: TextSource | None = None,
        watch: TextSource | None = None,
        calendar: Calendar | str | os.PathLike[str] | Mapping[str, Any] | None = None,
        alternatives: Iterable[Any] = (),
        priority: Priority | None = None,
        in_reply_to: str | None = None,
        references: str | Iterable[str] | None = None,
        encoding: Encoding | None = None,
        charset: str | None = None,
        embed_images: bool | str | os.PathLike[str] | None = None,
        precedence: str | None = None,
        auto_submitted: str | None = None,
        dkim: Any = None,
        text_from_html: bool | None = None,
        inline_css: bool | str | os.PathLike[str] | None = None,
        link_parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.from_, self.sender, self.envelope_from = from_, sender, envelope_from
        self.to, self.cc, self.bcc, self.reply_to = _listed(to), _listed(cc), _listed(bcc), _listed(reply_to)
        self.subject, self.text, self.html, self.amp, self.watch = subject, text, html, amp, watch
        self.calendar, self.alternatives = items.calendar(calendar), list(alternatives)
        self.attachments = [items.attachment(item) for item in attachments]
        self.headers = items.header_pairs(headers, "headers")
        self.list_unsubscribe = listmail.parse_unsubscribe(list_unsubscribe)
        self.list_id, self.feedback_id = list_id, feedback_id
        self.list_help, self.list_subscribe, self.list_post = list_help, list_subscribe, list_post
        self.list_owner, self.list_archive = list_owner, list_archive
        self.precedence, self.auto_submitted = precedence, auto_submitted
        self.priority, self.in_reply_to = priority, in_reply_to
        self.references = (
            " ".join(references) if references is not None and not isinstance(references, str) else references
        )
        self.date, self.message_id = date, message_id
        self.encoding, self.charset, self.embed_images = encoding, charset, embed_images
        self.dkim = list(dkim_specs(dkim))
        self.text_from_html, self.inline_css, self.link_parameters = text_from_html, inline_css, link_parameters

    def as_bytes(self, *, allow_files: bool = True, allow_urls: bool = False) -> bytes:
        """The whole message, newlines CRLF, without Bcc. raises  MessageError

        allow_files, allow_urls   what attachments, images and texts may be read from; data: is a URL
        """
        return _signed(self.unsigned_bytes(allow_files=allow_files, allow_urls=allow_urls), self.dkim)

    def unsigned_bytes(self, *, allow_files: bool = True, allow_urls: bool = False) -> bytes:
        """The same without signatures."""
        return b"".join(self._pieces(Access(allow_files, allow_urls)))

    def _pieces(self, access: Access) -> list[bytes]:
        """The message cut at its large attachments."""
        if (self.charset or "utf-8").lower() not in ("utf-8", "utf8"):
            raise MessageError(f"charset: {self.charset!r}, expected utf-8")
        spec, images = self._forms(access)
        attached = [load_attachment(item.spec, f"attachments[{n}]", access) for n, item in enumerate(self.attachments)]
        parts = []
        for form in forms_of(spec):
            encoding = self.encoding or choose_whole(form.source)
            parts.append((part_of(form, form.source, check_encoding(encoding, "encoding")), form))
        parts += [(mime.as_file(part, form.name), form) for part, form in parts if form.name is not None]
        out = [self._header()]
        for piece in mime.frame([part for part, _ in parts], [*attached, *images], dots=False):
            if isinstance(piece, int):
                part, form = parts[piece]
                piece = encode_whole(form.source, part.encoding, part.key)
            out.append(piece)
        return out

    def _forms(self, access: Access) -> tuple[MessageSpec, list[Attached]]:
        """The texts, those in files read, and the images that the html shows."""
        texts: dict[str, Any] = {}
        for key in ("text", "html", "amp", "watch"):
            if (given := getattr(self, key)) is not None:
                texts[key] = items.read_text(given, key, access)
        images: list[Attached] = []
        if self.embed_images and "html" in texts:
            folder = Path() if self.embed_images is True else Path(self.embed_images)
            texts["html"], images = embed_images(texts["html"], "html", [folder], access)
        self._rework(texts, access)
        others = [
            items.alternative(given, access, f"alternatives[{number}]")
            for number, given in enumerate(self.alternatives)
        ]
        event = self.calendar.spec(access) if self.calendar is not None else None
        return MessageSpec(**texts, calendar=event, alternatives=tuple(others)), images

    def _rework(self, texts: dict[str, Any], access: Access) -> None:
        """Link parameters, a text part and style attributes, where they are asked for."""
        if "html" not in texts or not (self.text_from_html or self.inline_css or self.link_parameters):
            return
        from bulkmail.message import html_work  # what few messages need

        unsubscribe = self.list_unsubscribe.url if self.list_unsubscribe is not None else None
        html = html_work.with_links(texts["html"], self.link_parameters or {}, unsubscribe)
        if self.text_from_html and "text" not in texts:
            texts["text"] = html_work.html_to_text(html)
        if self.inline_css:
            folder = Path() if self.inline_css is True else Path(self.inline_css)
            html = html_work.with_styles(html, folder, access)
        texts["html"] = html

    @property
    def has_urls(self) -> bool:
        """Whether composing it fetches something."""
        return any(item.spec.url is not None and item.spec.loaded is None for item in self.attachments)

    def fetched(self, access: Access) -> Message:
        """A copy, with the same date and id, that has what its attachments' URLs stand for. raises  MessageError"""
        self._fixed_date()
        self._fixed_id(self._required_from()[1])
        copy = Message(**self._arguments())
        for place, item in enumerate(copy.attachments):
            if item.spec.url is not None:
                copy.attachments[place] = item.loaded(f"attachments[{place}]", access)
        return copy

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
        more = items.header_pairs(defaults.get("headers") or (), "defaults")
        own = {name.lower() for name, _ in self.headers}
        merged["headers"] = [*self.headers, *(pair for pair in more if pair[0].lower() not in own)]
        return Message(**merged)

    def lint(self, *, bulk: bool = True) -> list[Finding]:
        """What standards and big receivers have against it (docs/lint.md), errors first; [] for nothing.

        bulk  False leaves out what is asked of mail to many only

        A message that cannot be composed has a finding for that.
        """
        from bulkmail.message.lint.library import lint_message

        return lint_message(self, bulk=bulk)

    def _arguments(self) -> dict[str, Any]:
        return dict(vars(self))

    def _header(self) -> bytes:
        own = self._required_from()
        sender, recipients = self.envelope()
        utf8 = not all(address.isascii() for address in (sender, *recipients))
        lines = [fields.mailboxes("From", [own], "from_", utf8)]
        if self.sender is not None:
            lines.append(fields.mailboxes("Sender", [_single(self.sender, "sender")], "sender", utf8))
        for key, name in (("reply_to", "Reply-To"), ("to", "To"), ("cc", "Cc")):
            lines += self._addressed(key, name, utf8)
        lines.append(_text_field("Subject", self.subject or "", "subject"))
        lines.append(_text_field("Date", self._fixed_date(), "date"))
        lines.append(b"Message-ID: " + self._fixed_id(own[1]).encode() + b"\r\n")
        for key, name in (("in_reply_to", "In-Reply-To"), ("references", "References")):
            lines.append(fields.message_ids(name, getattr(self, key) or "", key))
        if self.priority is not None:
            lines += [line for _, line in fields.priority_fields(self.priority, "priority")]
        lines += self._list_fields()
        refused = fields.refused_names((line.partition(b":")[0].decode() for line in lines), _OURS)
        lines += [fields.custom(name, value, f"headers.{name}", refused) for name, value in self.headers]
        return b"".join(lines)

    def _required_from(self) -> tuple[str, str]:
        if self.from_ is None:
            raise MessageError("from_: it is missing, expected an address such as News <news@example.com>")
        return _single(self.from_, "from_")

    def _addressed(self, key: str, name: str, utf8: bool) -> list[bytes]:
        boxes = _parsed(getattr(self, key), key)
        if boxes:
            return [fields.mailboxes(name, boxes, key, utf8)]
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


def to_wire(
    message: Any, *, envelope: bool = True, access: Access | None = None, dkim: Sequence[Dkim] | None = None
) -> tuple[bytes, str | None, list[str]]:
    """(content, sender, recipients) of a `Message`, an `email` message, bytes or a str.

    content   with CRLF newlines, without Bcc; of bytes nothing else is changed
    sender    None where nothing names one; recipients: of To, Cc and Bcc, maybe none
    envelope  False: the caller has one, and the header is not read for it (of ready bytes that takes 1 ms)
    access    what a `Message` may be read from; default: files
    dkim      what it is signed by; default: what a `Message` says itself
    raises    MessageError; TypeError for another type
    """
    dkim = signatures_of(message) if dkim is None else dkim
    if isinstance(message, Message):
        access = access or Access()
        content = message.unsigned_bytes(allow_files=access.files, allow_urls=access.urls)
        return _signed(content, dkim), *(message.envelope() if envelope else (None, []))
    if isinstance(message, EmailPackageMessage):
        data = _flattened(message)
    elif isinstance(message, str):
        data = _encoded(message, "the message")
    elif isinstance(message, (bytes, bytearray, memoryview)):
        data = bytes(message)
    else:
        raise TypeError(f"a message is a Message, an EmailMessage, bytes or str, not {type(message).__name__}")
    sender, recipients = raw.envelope_of(data, "the message") if envelope else (None, [])
    return _signed(raw.prepare(data, "the message"), dkim), sender, recipients


def signatures_of(message: Any, default: Sequence[Dkim] = ()) -> tuple[Dkim, ...]:
    """What a message is to be signed by: the signatures of a `Message` that has some, else those of its sender."""
    return tuple((message.dkim if isinstance(message, Message) else None) or default)


def _signed(content: bytes, specs: Sequence[Dkim]) -> bytes:
    if not specs:
        return content
    from bulkmail.message.dkim_sign import sign_message, signer_of  # what is not signed does not pay for it

    return sign_message(content, signer_of(tuple(specs)))


def _flattened(message: EmailPackageMessage) -> bytes:
    # The legacy policy writes whatever a header holds, a part's too: a line break there would begin another field.
    for part in message.walk():
        for name, value in part.raw_items():
            if _breaks_name(name) or fields.breaks_field(str(value)):
                raise MessageError(f"the message, header {name!r}: a line break or NUL cannot stand in a header")
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

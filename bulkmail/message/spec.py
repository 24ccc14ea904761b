"""What a job's message is made of: plain data, templates not yet parsed, files of text already read.

The manifest fills a `MessageSpec`; `compile_message` turns it into a `Compiled`. Every string of `MessageSpec` may hold
Jinja2 marks, except `list_id`, what says how (types, names, encodings, DKIM) and what is inside `attachments`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from bulkmail.errors import MessageError
from bulkmail.records import Record

Priority: TypeAlias = Literal["high", "normal", "low"]
Encoding: TypeAlias = Literal["7bit", "8bit", "quoted-printable", "base64"]
ENCODINGS: tuple[Encoding, ...] = ("7bit", "8bit", "quoted-printable", "base64")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Access(Record):
    """What the content of a message may be read from: files of this machine, URLs (http, https, data:)."""

    files: bool = True
    urls: bool = False

    def check_file(self, name: object, what: str) -> None:
        """raises  MessageError  naming `what`"""
        if not self.files:
            raise MessageError(f"{what}: {str(name)!r} is a file, and files are off (allow_files is false)")

    def check_url(self, what: str) -> None:
        """raises  MessageError  naming `what`"""
        if not self.urls:
            raise MessageError(f"{what}: URLs, data: included, are off unless allow_urls is true")


@dataclass(frozen=True, eq=False, repr=False)
class Attached(Record):
    """An attachment with everything decided.

    head      its header fields, lines with CRLF; b"" for a ready part, whose `body` is all of it
    body      its content as it goes out, newlines CRLF, dots not escaped
    digest    of the bytes that were given
    """

    type: str
    parameters: dict[str, str]
    name: str
    cid: str | None
    inline: bool
    encoding: Encoding
    head: bytes
    body: bytes
    digest: str

    @property
    def ready(self) -> bool:
        return not self.head

    @cached_property
    def data(self) -> bytes:
        """The bytes that a reader gets."""
        import base64  # what sends it has no use for that

        return base64.b64decode(self.body) if self.encoding == "base64" else self.body


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PreparedValue(Record):
    """The value of a custom header that is encoded and folded already: checked, and sent as it is."""

    value: str


HeaderValue: TypeAlias = str | PreparedValue


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AttachmentSpec(Record):
    """One attachment: exactly one of `file`, `content`, `base64`, `url`, `part`.

    content  its text; or bytes, from a caller that has them
    url      http, https (where URLs are allowed) or data:
    part     a ready MIME part, its headers and its content: kept byte for byte
    name     the file name shown; default: that of `file` or `url`, else "attachment"
    type     "type/subtype", parameters allowed; default: guessed from the name, else application/octet-stream
    cid      content id without angle brackets; the HTML part refers to it as `cid:...`
    inline   disposition inline instead of attachment (an attachment with a `cid` always is)
    headers  more fields of this part, in order
    loaded   all of it, where it has been read: it is not read again
    """

    file: Path | None = None
    content: str | bytes | None = None
    base64: str | None = None
    url: str | None = None
    part: bytes | None = None
    name: str | None = None
    type: str | None = None
    cid: str | None = None
    inline: bool = False
    headers: tuple[tuple[str, HeaderValue], ...] = ()
    loaded: Attached | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CalendarSpec(Record):
    """An event (RFC 5545, RFC 6047) as a text/calendar alternative.

    text     a template; file: where it was read from
    method   None: as the text says, else PUBLISH
    name     the event goes along as a file of this name as well; None: it does not
    """

    text: str
    method: str | None = None
    file: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AlternativeSpec(Record):
    """One more form of the message: a template, and the content type that it has."""

    type: str
    content: str
    file: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ListUnsubscribe(Record):
    """RFC 2369 and RFC 8058: `url`, `mailto` (with or without "mailto:") or both; `one_click` needs an https url.

    key   signs each recipient's url, so that it cannot be guessed (never shown)
    """

    url: str | None = None
    mailto: str | None = None
    one_click: bool = False
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ListLink(Record):
    """An entry of List-Help and the like (RFC 2369): a URL or an address, and a word on it for people."""

    url: str
    comment: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MessageSpec(Record):
    """The `message` of a manifest.

    text, html, amp, watch   template sources; `..._file` name where they were read from (for error messages)
    to                 None: each recipient's own address, or "undisclosed-recipients:;" in a shared message
    headers            custom fields in their order: a mapping (a sequence of values: repeated), or pairs
    envelope_from      None: the address of `sender`, else of `from_`; "" or "<>": the null sender
    raw                a ready message, in place of everything but `envelope_from`; it holds no template marks
    charset            utf-8 (the only one)
    encoding           of the text parts; None: chosen by what they hold
    text_from_html     a text part is made of `html` where there is none
    inline_css         the style sheets of `html` become style attributes
    embed_images       local files and data: URIs that `html` shows become inline parts
    link_parameters    added to the links of `html`, such as utm_source
    locale             of dates, numbers and amounts in templates, such as de_DE
    list_fields        "help", "subscribe", "post", "owner", "archive": where they are to be found, the best first
    auto_submitted     "auto-generated", "auto-replied" (RFC 3834)
    precedence         "bulk", "list", "junk"
    access             what attachments, images and templates (includes) may be read from
    dkim               `Dkim`s: one signature each
    """

    from_: str | None = None
    to: str | None = None
    subject: str = ""
    html: str | None = None
    text: str | None = None
    sender: str | None = None
    reply_to: str | None = None
    attachments: tuple[AttachmentSpec, ...] = ()
    headers: Mapping[str, HeaderValue | Sequence[HeaderValue]] | Sequence[tuple[str, HeaderValue]] = field(
        default_factory=dict
    )
    list_unsubscribe: ListUnsubscribe | None = None
    list_id: str | None = None
    list_fields: Mapping[str, Sequence[ListLink]] = field(default_factory=dict)
    feedback_id: str | None = None
    envelope_from: str | None = None
    raw: bytes | None = None
    charset: str = "utf-8"
    html_file: str | None = None
    text_file: str | None = None
    amp: str | None = None
    amp_file: str | None = None
    watch: str | None = None
    watch_file: str | None = None
    calendar: CalendarSpec | None = None
    alternatives: tuple[AlternativeSpec, ...] = ()
    priority: Priority | None = None
    in_reply_to: str | None = None
    references: str | None = None
    encoding: Encoding | None = None
    dkim: tuple[Any, ...] = ()
    text_from_html: bool = False
    inline_css: bool = False
    embed_images: bool = False
    link_parameters: Mapping[str, str] = field(default_factory=dict)
    locale: str | None = None
    auto_submitted: str | None = None
    precedence: str | None = None
    access: Access = Access()

    def header_pairs(self) -> list[tuple[str, HeaderValue]]:
        """The custom fields, one for each value, in order."""
        return header_pairs(self.headers)


def header_pairs(
    given: Mapping[str, HeaderValue | Sequence[HeaderValue]] | Sequence[tuple[str, HeaderValue]],
) -> list[tuple[str, HeaderValue]]:
    """(name, value) of each custom field, in order; a sequence of values repeats its field."""
    out: list[tuple[str, HeaderValue]] = []
    for name, value in given.items() if isinstance(given, Mapping) else given:
        if isinstance(value, (str, PreparedValue)):
            out.append((name, value))
        else:
            out += [(name, item) for item in value]
    return out

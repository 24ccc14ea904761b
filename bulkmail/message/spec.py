"""What a job's message is made of: plain data, templates not yet parsed, files of text already read.

The manifest fills a `MessageSpec`; `compile_message` turns it into a `Compiled`. Every string of `MessageSpec` may hold
Jinja2 marks, except `list_id` and what is inside `attachments`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AttachmentSpec:
    """One attachment: exactly one of `file`, `content` (text, or bytes from a caller that has them), `base64`.

    name     the file name shown; default: that of `file`, else "attachment"
    type     "type/subtype", parameters allowed; default: guessed from the name, else application/octet-stream
    cid      content id without angle brackets; the HTML part refers to it as `cid:...`
    inline   disposition inline instead of attachment (an attachment with a `cid` always is)
    """

    file: Path | None = None
    content: str | bytes | None = None
    base64: str | None = None
    name: str | None = None
    type: str | None = None
    cid: str | None = None
    inline: bool = False


@dataclass(frozen=True, slots=True)
class ListUnsubscribe:
    """RFC 2369 and RFC 8058: `url`, `mailto` (with or without "mailto:") or both; `one_click` needs an https url."""

    url: str | None = None
    mailto: str | None = None
    one_click: bool = False


@dataclass(frozen=True, slots=True)
class MessageSpec:
    """The `message` of a manifest.

    html, text   template sources; `html_file`, `text_file` name where they were read from (for error messages)
    to           None: each recipient's own address, or "undisclosed-recipients:;" in a shared message
    envelope_from  None: the address of `sender`, else of `from_`; "" or "<>": the null sender
    raw          a ready message, in place of everything but `envelope_from`; it holds no template marks
    charset      utf-8 (the only one)
    """

    from_: str | None = None
    to: str | None = None
    subject: str = ""
    html: str | None = None
    text: str | None = None
    sender: str | None = None
    reply_to: str | None = None
    attachments: tuple[AttachmentSpec, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    list_unsubscribe: ListUnsubscribe | None = None
    list_id: str | None = None
    feedback_id: str | None = None
    envelope_from: str | None = None
    raw: bytes | None = None
    charset: str = "utf-8"
    html_file: str | None = None
    text_file: str | None = None

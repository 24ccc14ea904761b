"""A message as its readers see it: its text parts, and a page on which a browser shows its inline images."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import compat32
from urllib.parse import unquote

# The forms of a message, and the ending of a file that holds one.
ENDINGS = {
    "text/html": ".html",
    "text/plain": ".txt",
    "text/x-amp-html": ".amp.html",
    "text/watch-html": ".watch.html",
    "text/calendar": ".ics",
}
# Mail programs run no scripts; a browser that opens a file would.
_POLICY = "script-src 'none'; frame-src 'none'"
_HEAD = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'

# Where a URL stands: the value of an attribute, or CSS. In running text "cid:" is text.
_cid = re.compile(r"""((?:=|\burl\(|,)\s*["']?\s*|&quot;|&#39;)cid:([^\s"'<>)]+)""", re.IGNORECASE)
_top = re.compile(r"<head\b[^>]*>|<html\b[^>]*>|<!doctype\b[^>]*>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class View:
    """texts: type -> text, the first part of each of ENDINGS; inline: content id -> (type, bytes)."""

    texts: dict[str, str] = field(default_factory=dict)
    inline: dict[str, tuple[str, bytes]] = field(default_factory=dict)


def view(eml: bytes) -> View:
    """What is in a message, as far as it can be read."""
    seen = View()
    try:
        parts = list(_parts(message_from_bytes(eml, policy=compat32)))
    except Exception:  # a ready message may be nested without end, and the parser raises whatever its parts do
        return seen
    for part in parts:
        kind, cid = part.get_content_type(), part["Content-ID"]
        if cid is not None:
            seen.inline.setdefault(str(cid).strip(" <>"), (kind, _payload(part)))
        if kind in ENDINGS and kind not in seen.texts and part.get_content_disposition() != "attachment":
            seen.texts[kind] = _text(part)
    return seen


def _parts(message: Message) -> Iterator[Message]:
    """The parts of this message; those of one that is attached to it are that one's."""
    if message.is_multipart() and message.get_content_maintype() == "multipart":
        for part in message.get_payload():
            if isinstance(part, Message):
                yield from _parts(part)
    elif not message.is_multipart():
        yield message


def _payload(part: Message) -> bytes:
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def _text(part: Message) -> str:
    data = _payload(part)
    try:
        text = data.decode(part.get_content_charset() or "utf-8")
    except (LookupError, ValueError):
        text = data.decode("utf-8", "replace")
    return text if part.get_content_type() == "text/calendar" else text.replace("\r\n", "\n")


def page(seen: View) -> str:
    """The html part for a browser: inline images are in it, scripts are not run. "" if there is no html part."""
    source = seen.texts.get("text/html")
    if source is None:
        return ""
    source = _cid.sub(lambda found: found[1] + _embedded(found[2], seen), source)
    top = 0
    for found in _top.finditer(source[:4096]):
        top = found.end()
    return source[:top] + _HEAD + source[top:]


def _embedded(reference: str, seen: View) -> str:
    """What stands in a page for "cid:reference"."""
    found = seen.inline.get(unquote(html.unescape(reference)))
    if found is None:
        return f"cid:{reference}"  # shows as what it is: a broken image
    return f"data:{found[0]};base64,{base64.b64encode(found[1]).decode()}"

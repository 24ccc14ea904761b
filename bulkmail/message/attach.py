"""Attachments: read once, checked, and encoded at once, so that the bytes are held in one form only."""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
import mimetypes
import re
from collections.abc import Iterable

from bulkmail.errors import MessageError
from bulkmail.message import headers, raw
from bulkmail.message.base64_lines import encode_base64
from bulkmail.message.encodings import check_lines
from bulkmail.message.parameters import check_value, content_type, disposition, split_type
from bulkmail.message.spec import Access, Attached, AttachmentSpec, Encoding, HeaderValue
from bulkmail.urlparts import quoted

NO_URLS = Access()
SOURCES = ("file", "content", "base64", "url", "part")
# Charsets of mail that Python has no codec for.
_MORE_CHARSETS = frozenset({"iso-8859-6-i", "iso-8859-8-i", "windows-874", "x-mac-japanese", "utf-7-imap"})

_cid = re.compile(r"[!-;=?-~]{1,500}").fullmatch
_field_line = re.compile(rb"(?:[!-9;-~]+[ \t]*:|[ \t]+[^ \t\r\n])").match


def load_attachment(spec: AttachmentSpec, what: str = "attachments", access: Access = NO_URLS) -> Attached:
    """raises  MessageError  naming `what`: what is not allowed or cannot be read, broken base64, a type that is none"""
    if spec.loaded is not None:
        return spec.loaded
    given = [key for key in SOURCES if getattr(spec, key) is not None]
    if len(given) != 1:
        found = " and ".join(map(repr, given)) or "none"
        raise MessageError(f"{what}: one of 'file', 'content', 'base64', 'url' and 'part' is expected, found {found}")
    if spec.part is not None:
        return _ready_part(spec, spec.part, what)
    data, stated, file_name = _content(spec, what, access)
    kind, parameters, name = _type_and_name(spec, stated, file_name, what)
    cid = spec.cid.strip("<>") if spec.cid is not None else None
    if cid is not None and not _cid(cid):
        raise MessageError(
            f"{what}: cid {quoted(spec.cid)}, expected printable characters without spaces and angle brackets"
        )
    inline = spec.inline or cid is not None
    encoding, body = _encoded(data, kind, what)
    lines = [content_type(kind, parameters, name), b"Content-Transfer-Encoding: " + encoding.encode() + b"\r\n"]
    if cid is not None:
        lines.append(f"Content-ID: <{cid}>\r\n".encode())
    lines += [disposition("inline" if inline else "attachment", name), *_custom(spec.headers, what)]
    return Attached(kind, parameters, name, cid, inline, encoding, b"".join(lines), body, _digest(data))


def check_charset(name: str, what: str) -> None:
    """raises  MessageError  naming `what` for a charset that nobody knows"""
    try:
        known = codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        known = name.lower() in _MORE_CHARSETS
    if not known:
        raise MessageError(f"{what}: the charset {name!r} is unknown")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data).hexdigest()[:32]


def _content(spec: AttachmentSpec, what: str, access: Access) -> tuple[bytes, str | None, str | None]:
    """(bytes, content type, name), the latter two as far as the source says them."""
    if spec.file is not None:
        access.check_file(spec.file, what)
        try:
            return spec.file.read_bytes(), None, spec.file.name
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise MessageError(f"{what}: {spec.file} cannot be read: {reason}") from None
    if spec.url is not None:
        access.check_url(what)
        from bulkmail.message.fetch import fetch

        fetched = fetch(spec.url, what)
        return fetched.data, fetched.type, fetched.name
    if isinstance(spec.content, bytes):
        return spec.content, None, None
    if spec.content is not None:
        return _text(spec.content, what), None, None
    try:
        return base64.b64decode("".join((spec.base64 or "").split()), validate=True), None, None
    except (binascii.Error, ValueError) as error:
        raise MessageError(f"{what}: 'base64' is not base64: {error}") from None


def _text(content: str, what: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise MessageError(f"{what}: it is not valid Unicode: {error.reason} at character {error.start}") from None


def _type_and_name(
    spec: AttachmentSpec, stated: str | None, file_name: str | None, what: str
) -> tuple[str, dict[str, str], str]:
    """stated: by a server, which may say anything, so that what is no type counts as none."""
    name = spec.name or file_name or ""
    if name:
        check_value(name, f"{what}: the name")
    parameters: dict[str, str] = {}
    if spec.type is not None:
        kind, parameters = split_type(spec.type, what)
    else:
        kind = _guessed(name) or _essence(stated) or ("text/plain" if isinstance(spec.content, str) else "")
        kind = kind or "application/octet-stream"
    if "charset" in parameters:
        check_charset(parameters["charset"], what)
    if isinstance(spec.content, str) and kind.startswith("text/"):
        parameters["charset"] = "utf-8"
    return kind, parameters, name or "attachment" + (mimetypes.guess_extension(kind) or "" if stated else "")


def _guessed(name: str) -> str | None:
    guessed, packed = mimetypes.guess_type(name)
    return None if packed else guessed


def _essence(stated: str | None) -> str | None:
    try:
        return split_type(stated.partition(";")[0].strip(), "")[0] if stated else None
    except MessageError:
        return None


def _encoded(data: bytes, kind: str, what: str) -> tuple[Encoding, bytes]:
    if not kind.startswith("message/"):
        return "base64", encode_base64(data)
    # RFC 2046 section 5.2.1, RFC 3464 section 2.1: attached messages and reports are not encoded.
    data = raw.crlf(data)
    check_lines(data, what)
    return ("7bit" if data.isascii() else "8bit"), data


def _custom(pairs: Iterable[tuple[str, HeaderValue]], what: str) -> list[bytes]:
    lines = []
    for name, value in pairs:
        if name.lower().startswith("content-") and name.lower() in headers.OURS:
            raise MessageError(f"{what}: the header {name!r} is made from 'type', 'name', 'cid' and 'inline'")
        lines.append(headers.custom(name, value, f"{what}.headers.{name}", {}))
    return lines


def _ready_part(spec: AttachmentSpec, part: bytes, what: str) -> Attached:
    from email import message_from_bytes

    for key in ("name", "type", "cid", "headers"):
        if getattr(spec, key):
            raise MessageError(f"{what}: a 'part' is complete, expected no {key!r} beside it")
    data = raw.crlf(part)
    check_lines(data, what)
    head, _ = raw.split(data)
    for number, line in enumerate(head.splitlines() or [b""], 1):
        if not _field_line(line) or (number == 1 and line[:1] in b" \t"):
            raise MessageError(f"{what}: line {number} of the part is no header field: {line[:40]!r}")
    # Only what has parts in it is parsed as a whole.
    parsed = message_from_bytes(head + b"\r\n")
    if parsed.get_content_maintype() == "multipart":
        parsed = message_from_bytes(data)
    for inner in parsed.walk():
        charset = inner.get_param("charset")
        if isinstance(charset, str) and inner.get_content_maintype() == "text":
            check_charset(charset, what)
    cid = str(parsed.get("Content-ID", "")).strip().strip("<>") or None
    inline = parsed.get_content_disposition() == "inline"
    encoding: Encoding = "7bit" if data.isascii() else "8bit"
    name = parsed.get_filename() or "attachment"
    return Attached(parsed.get_content_type(), {}, name, cid, inline, encoding, b"", data, _digest(part))

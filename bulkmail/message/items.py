"""What a program puts into a `Message`: files, events, and texts that may be files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from bulkmail.errors import MessageError
from bulkmail.message.attach import load_attachment
from bulkmail.message.spec import Access, AlternativeSpec, AttachmentSpec, CalendarSpec, HeaderValue, PreparedValue

TextSource: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any]"
HeaderSource: TypeAlias = "str | PreparedValue | Mapping[str, Any]"

MAX_TEXT = 1 << 24  # bytes of a text that is read from a file, as in a manifest

_is_url = re.compile(r"(?:https?://|data:[^,/\\]*[/;,])", re.IGNORECASE).match
_ATTACHMENT_KEYS = frozenset({"file", "content", "base64", "url", "part", "name", "type", "cid", "inline", "headers"})


class Attachment:
    """A file of a message.

    source   a path, bytes, a binary file (read now; a path is read when the message is composed), or a URL: http, https
             or data:, where the message is composed with allow_urls=True
    content  text, in place of a source
    part     a ready MIME part (bytes), in place of a source: its header and its content, kept byte for byte
    name     as shown; default: that of the path, file or URL
    type     content type; default: guessed from the name
    cid      the HTML part refers to it as "cid:..."
    headers  more fields of its own
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | BinaryIO | None = None,
        *,
        name: str | None = None,
        type: str | None = None,
        cid: str | None = None,
        inline: bool = False,
        content: str | None = None,
        part: bytes | str | None = None,
        headers: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    ) -> None:
        file = url = None
        data: str | bytes | None = content
        if isinstance(source, str) and _is_url(source):
            url = source
        elif isinstance(source, (str, os.PathLike)):
            file = Path(source)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            data = bytes(source)
        elif source is not None:
            data = _read(source)
            opened = getattr(source, "name", None)
            name = name or (os.path.basename(opened) if isinstance(opened, str) else None)
        if source is not None and content is not None:
            raise MessageError("attachments: one of a source, 'content' and 'part' is expected, found two")
        self.spec = AttachmentSpec(
            file=file,
            content=data,
            url=url,
            part=part.encode() if isinstance(part, str) else part,
            name=name,
            type=type,
            cid=cid,
            inline=inline,
            headers=tuple(header_pairs(headers, "attachments")),
        )

    def loaded(self, what: str, access: Access) -> Attachment:
        """The same with its content read. raises  MessageError  naming `what`"""
        made = Attachment()
        made.spec = replace(self.spec, loaded=load_attachment(self.spec, what, access))
        return made

    def __repr__(self) -> str:
        return f"Attachment({self.spec.name or self.spec.file or 'bytes'!s})"


def _read(source: Any) -> bytes:
    data = source.read()
    if not isinstance(data, bytes):
        raise MessageError("attachments: a file must be opened in binary mode")
    return data


def attachment(given: Any) -> Attachment:
    """An `Attachment`, from whatever a caller has: one, its source, or an object as in a manifest."""
    if isinstance(given, Attachment):
        return given
    if not isinstance(given, Mapping):
        return Attachment(given)
    unknown = next((key for key in given if key not in _ATTACHMENT_KEYS), None)
    if unknown is not None:
        raise MessageError(f"attachments: {unknown!r} is no key of an attachment")
    made = Attachment()
    values = dict(given)
    if isinstance(values.get("file"), (str, os.PathLike)):
        values["file"] = Path(values["file"])
    if isinstance(values.get("part"), str):
        values["part"] = values["part"].encode()
    values["headers"] = tuple(header_pairs(values.get("headers") or (), "attachments"))
    made.spec = AttachmentSpec(**values)
    return made


class Calendar:
    """An event that mail clients show as an invitation (RFC 6047).

    event    the iCalendar text, or a path of a file of it
    method   "REQUEST", "PUBLISH", "CANCEL" and the like; default: what the event itself says
    name     the event goes along as a file of this name as well, such as "invite.ics"
    """

    def __init__(self, event: str | os.PathLike[str], *, method: str | None = None, name: str | None = None) -> None:
        self.event, self.method, self.name = event, method, name

    def spec(self, access: Access) -> CalendarSpec:
        text = read_text(self.event, "calendar", access)
        return CalendarSpec(text, self.method, None, self.name)


def calendar(given: Any) -> Calendar | None:
    """A `Calendar`, from itself, its text, or an object as in a manifest."""
    if given is None or isinstance(given, Calendar):
        return given
    if not isinstance(given, Mapping):
        return Calendar(given)
    values = dict(given)
    text, file = values.pop("text", None), values.pop("file", None)
    if (text is None) == (file is None):
        raise MessageError("calendar: one of 'text' and 'file' is expected")
    unknown = next((key for key in values if key not in ("method", "name")), None)
    if unknown is not None:
        raise MessageError(f"calendar: {unknown!r} is no key of it, expected 'method', 'text', 'file', 'name'")
    return Calendar(Path(file) if text is None else text, **values)


def alternative(given: Any, access: Access, what: str) -> AlternativeSpec:
    """From (type, content) or {"type": ..., "content" or "file": ...}. raises  MessageError  naming `what`"""
    if isinstance(given, AlternativeSpec):
        return given
    if isinstance(given, Mapping) and given.keys() in ({"type", "content"}, {"type", "file"}):
        source = given["content"] if "content" in given else Path(given["file"])
        return AlternativeSpec(str(given["type"]), read_text(source, what, access))
    if isinstance(given, tuple) and len(given) == 2:
        return AlternativeSpec(str(given[0]), read_text(given[1], what, access))
    raise MessageError(f"{what}: expected (type, content), or an object with 'type' and 'content' or 'file'")


def read_text(given: TextSource, what: str, access: Access) -> str:
    """A text, or what the file holds that a path or {"file": name} names. raises  MessageError  naming `what`"""
    if isinstance(given, str):
        return given
    path = given.get("file") if isinstance(given, Mapping) and len(given) == 1 else given
    if not isinstance(path, (str, os.PathLike)):
        raise MessageError(f"{what}: expected a text, a path, or an object with 'file'")
    access.check_file(path, what)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TEXT + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise MessageError(f"{what}: {path!s} cannot be read: {reason}") from None
    if len(data) > MAX_TEXT:
        raise MessageError(f"{what}: {path!s} has more than {MAX_TEXT} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MessageError(f"{what}: {path!s}, line {line}: not valid UTF-8") from None


def header_pairs(given: Mapping[str, Any] | Iterable[tuple[str, Any]], what: str) -> list[tuple[str, HeaderValue]]:
    """(name, value) of custom fields in their order; a list of values repeats its field."""
    out: list[tuple[str, HeaderValue]] = []
    for name, value in given.items() if isinstance(given, Mapping) else given:
        several = isinstance(value, (list, tuple))
        out += [(name, _header_value(one, f"{what}: {name!r}")) for one in (value if several else [value])]
    return out


def _header_value(given: Any, what: str) -> HeaderValue:
    if isinstance(given, (str, PreparedValue)):
        return given
    if isinstance(given, Mapping) and given.keys() <= {"value", "prepared"} and isinstance(given.get("value"), str):
        return PreparedValue(given["value"]) if given.get("prepared") else str(given["value"])
    raise MessageError(f'{what}: expected a text, a list of texts, or {{"prepared": true, "value": text}}')

"""What the page shows of one message. Every byte of it is hostile: what cannot be read is left out or said in
`problems`, and nothing is raised."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from bulkmail.message.lint import fields as header
from bulkmail.message.lint import page, parts
from bulkmail.message.lint.fields import Field
from bulkmail.message.lint.parts import Part

# Bytes of a message that is taken apart; most servers take 36 MB at most. A larger one shows its header and source.
MAX_READ = 40 * 1024 * 1024
# Bytes of the beginning from which a row of the list is made, and in which a search looks.
MAX_GLANCE = 256 * 1024
MAX_SUBJECT = 500  # characters of a row
MAX_VALUE = 10_000  # characters of a field in the table of headers
MAX_HEADERS = 1000  # rows of that table
MAX_HTML = 4_000_000  # characters of an html part with its images' URLs in it
MAX_LINKS = 200
MAX_URL = 2000
MAX_NAME = 120  # characters of a file's name; file systems take 255 bytes

# What <img> may show of a message. SVG is left out: it is a document, with styles and links.
IMAGES = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/avif"))
ENDINGS = {"message/rfc822": ".eml", "text/calendar": ".ics", "text/html": ".html", "text/plain": ".txt"}

# "cid:" where a URL stands: the value of an attribute, or CSS.
_cid = re.compile(r"""((?:=|\burl\(|,)\s{0,9}["']?\s{0,9}|&quot;|&#39;)cid:([^\s"'<>)]+)""", re.IGNORECASE)
# Chromium connects to the host of a <link rel=preconnect>, and of a frame before it looks whether the policy allows
# that frame: a sign to the sender that the message was opened. Such elements lose their names.
_calling = re.compile(r"<(?=(?:link|iframe|frame|fencedframe|portal|object|embed)[\s/>])", re.IGNORECASE)
# A link opens a new window unless it says otherwise, which the sandbox forbids: a click does nothing. Without this it
# would put the browser's "blocked" page in the place of the message. Behind the doctype, which must be first.
_doctype = re.compile(r"(?:\s+|<!--.*?-->)*+<!doctype[^>]*>", re.IGNORECASE | re.DOTALL)
LINKS_OPEN = '<base target="_blank">'
# Controls, and what turns the order of letters round so that a name seems to end in something else.
_unsafe = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff<>:\"|?*\\/]")


def clean(text: str) -> str:
    """Lone surrogates (bytes that are no UTF-8) cannot be encoded."""
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class Summary:
    """A row of the list. `attachments` is a guess where the message is longer than MAX_GLANCE."""

    size: int
    subject: str
    header_from: str
    header_to: str
    attachments: bool


def summary(data: bytes, size: int) -> Summary:
    """Of the beginning of a message of `size` bytes."""
    seen = Reading(data[:MAX_GLANCE])
    mixed = size > MAX_GLANCE and seen.value("content-type").lower().startswith("multipart/mixed")
    return Summary(
        size,
        seen.shown("subject")[:MAX_SUBJECT],
        seen.shown("from")[:MAX_SUBJECT],
        seen.shown("to")[:MAX_SUBJECT],
        mixed or any(not one["inline"] for one in seen.attachments(measure=False)),
    )


@dataclass
class Reading:
    """One message, or the beginning of it."""

    data: bytes
    problems: list[str] = field(default_factory=list)

    @cached_property
    def _halves(self) -> tuple[bytes, int]:
        return header.split_at(self.data, 0, len(self.data))

    @cached_property
    def fields(self) -> list[Field]:
        return header.parse(self._halves[0])[0]

    @cached_property
    def tree(self) -> parts.Tree:
        return parts.walk(self.fields, self.data, self._halves[1])

    def value(self, key: str) -> str:
        return next((one.value for one in self.fields if one.key == key), "")

    def shown(self, key: str) -> str:
        """A field decoded, on one line."""
        return " ".join(clean(header.decoded(self.value(key)[:MAX_VALUE])[0]).split())

    def headers(self) -> list[tuple[str, str]]:
        return [(one.name, clean(header.decoded(one.value[:MAX_VALUE])[0])) for one in self.fields[:MAX_HEADERS]]

    # --- the parts

    def _body(self, kind: str) -> Part | None:
        shown = (one for one in self.tree.parts if one.type == kind and one.disposition != "attachment")
        return next(shown, None)

    @cached_property
    def html_part(self) -> Part | None:
        return self._body("text/html")

    @cached_property
    def text_part(self) -> Part | None:
        return self._body("text/plain")

    @property
    def text(self) -> str | None:
        return None if self.text_part is None else clean(self.text_part.text[0])

    @property
    def plain_html(self) -> str | None:
        return None if self.html_part is None else clean(self.html_part.text[0])

    def html(self, inline: str) -> str | None:
        """The html part for a browser: `inline` + number is the URL of an image of this message."""
        source = self.plain_html
        if source is None:
            return None
        places = {part.cid: at for at, part in enumerate(self.tree.parts) if part.cid and part.type in IMAGES}

        def image(found: re.Match[str]) -> str:
            at = places.get(unquote(html.unescape(found[2])))
            return found[0] if at is None else f"{found[1]}{inline}{at}"

        source = _cid.sub(image, source[:MAX_HTML])[:MAX_HTML]
        start = _doctype.match(source[:MAX_GLANCE])
        top = start.end() if start else 0
        return source[:top] + LINKS_OPEN + _calling.sub("<x-", source[top:])

    def searched(self) -> str:
        """The text that a search looks through."""
        found = self.text or ""
        source = self.plain_html
        if source is not None:
            found += "\n" + page.read(source[:MAX_GLANCE]).text
        return found

    def links(self) -> list[dict[str, str]]:
        """Of the html part, those that a person may follow."""
        source = self.plain_html
        if source is None:
            return []
        found: dict[str, str] = {}
        for link in page.read(source).links:
            if is_web(link.href) and len(link.href) <= MAX_URL and len(found) < MAX_LINKS:
                found.setdefault(link.href, " ".join(link.text.split())[:MAX_SUBJECT])
        return [{"url": url, "text": text} for url, text in found.items()]

    def attachments(self, measure: bool = True) -> list[dict[str, Any]]:
        """All parts that are not shown as the text or the html; `index` is the part's place. measure: with sizes."""
        shown = (self.html_part, self.text_part)
        found = []
        for at, part in enumerate(self.tree.parts):
            if any(part is one for one in shown):
                continue
            inline = part.related and part.cid is not None and part.disposition != "attachment"
            told = {"index": at, "name": file_name(part, at), "type": clean(part.type)[:100], "inline": inline}
            if measure:
                told["size"] = len(part.content(MAX_READ))
            found.append(told)
        return found

    def part(self, at: int) -> Part | None:
        return self.tree.parts[at] if 0 <= at < len(self.tree.parts) else None

    def all_problems(self) -> list[str]:
        found = self.problems + [clean(problem)[:MAX_SUBJECT] for problem in self.tree.problems[:20]]
        for what, part in (("html", self.html_part), ("text", self.text_part)):
            if part is not None and len(part.content()) == parts.MAX_TEXT:
                found.append(f"its {what} is longer than what is shown here, {parts.MAX_TEXT} bytes")
        return found


def is_web(url: str) -> bool:
    return url.lower().startswith(("https://", "http://", "mailto:"))


def file_name(part: Part, at: int) -> str:
    """A name that can be saved anywhere and leads nowhere else."""
    given = header.decoded((part.name or "")[:4096])[0]
    name = _unsafe.sub("_", given.replace("\\", "/").rpartition("/")[2]).strip(" .")
    if not name:
        return f"part-{at}{ENDINGS.get(part.type, '.bin')}"
    stem, dot, ending = name.rpartition(".")
    if len(name) > MAX_NAME and dot and len(ending) < 20:
        return f"{stem[: MAX_NAME - len(ending) - 1]}.{ending}"
    return name[:MAX_NAME]


def reading(data: bytes, size: int) -> Reading:
    """Of what was read of a message of `size` bytes: all of it, or its beginning."""
    if len(data) == size:
        return Reading(data)
    head, _ = header.split_at(data, 0, min(len(data), header.MAX_HEAD))
    why = f"it has {size} bytes, more than the {MAX_READ} that are taken apart: here are its header and its source"
    return Reading(head + b"\r\n", [why])

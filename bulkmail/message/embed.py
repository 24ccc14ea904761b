"""Images of an html part: local files and data: URIs become inline parts with content ids.

Works on html and on templates of it: what holds template marks is left as it is, and so is what names another server.
"""

from __future__ import annotations

import html as entities
import mimetypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from bulkmail.errors import MessageError
from bulkmail.message.attach import load_attachment
from bulkmail.message.fetch import fetch, masked
from bulkmail.message.spec import Access, Attached, AttachmentSpec

MAX_IMAGES = 200  # of one message: mail clients take seconds for as many

_QUOTED = r"\"[^\"]*\"|'[^']*'"
# Jinja2's own comments, which nobody will see; tags that show an image; style sheets.
_places = re.compile(
    rf"\{{#.*?#\}}|<style\b[^>]*>.*?</style\s*>|<[a-z][a-z0-9:-]*\b(?>\{{\{{.*?\}}\}}|\{{%.*?%\}}|{_QUOTED}|[^<>\"'])*+>",
    re.IGNORECASE | re.DOTALL,
).sub
# An attribute with its value; template marks and stray quotes only so that nothing inside them is taken for one.
_attribute = re.compile(
    rf"([a-z_:@][\w:.@-]*)(\s*=\s*)({_QUOTED}|[^\s\"'>]+)|\{{\{{.*?\}}\}}|\{{%.*?%\}}|{_QUOTED}",
    re.IGNORECASE | re.DOTALL,
).sub
_shows_src = re.compile(r"<(?:img|input|v:image|v:fill|v:imagedata)\b", re.IGNORECASE).match
_css_url = re.compile(r"(\burl\(\s*)(\"[^\"]*\"|'[^']*'|[^\"'()\s]+)(\s*\))", re.IGNORECASE).sub
_scheme = re.compile(r"(?:[a-z][a-z0-9+.-]+:|//|#|$)", re.IGNORECASE).match
_cid = re.compile(r"\bcid:([^\s\"'()<>]+)", re.IGNORECASE).findall
_marks = re.compile(r"\{\{|\{%|\{#").search
_svg = re.compile(
    rb"\s*(?:\xef\xbb\xbf)?(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE[^>]*>\s*)?<svg\b", re.DOTALL
).match

# How a file of each type begins, and what stands at the end of a whole one.
_KINDS: tuple[tuple[str, Callable[[bytes], bool], bytes], ...] = (
    ("image/png", lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), b"IEND"),
    ("image/jpeg", lambda data: data.startswith(b"\xff\xd8\xff"), b"\xff\xd9"),
    ("image/gif", lambda data: data.startswith((b"GIF87a", b"GIF89a")), b"\x3b"),
    ("image/webp", lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", b""),
    ("image/avif", lambda data: data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"), b""),
    ("image/heic", lambda data: data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1"), b""),
    ("image/bmp", lambda data: data.startswith(b"BM"), b""),
    ("image/tiff", lambda data: data.startswith((b"II*\0", b"MM\0*")), b""),
    ("image/x-icon", lambda data: data.startswith(b"\0\0\1\0"), b""),
    ("image/svg+xml", lambda data: _svg(data[:4096]) is not None, b"svg"),
)
_TAIL = 64  # bytes in which the end mark is looked for: some programs write a few more behind it


def referenced_cids(html: str) -> set[str]:
    """The content ids that an html part refers to."""
    return {unquote(entities.unescape(found)) for found in _cid(html)}


def embed_images(html: str, what: str, folders: Sequence[Path], access: Access) -> tuple[str, list[Attached]]:
    """The html with cid: in the place of each local image, and these images, each once.

    what      the manifest's key, for errors
    folders   where relative names are looked for, one after the other; nothing outside the last of them is read
    raises    MessageError  naming `what` and the file: it is missing, outside, or no whole image
    """
    found = _Images(what, folders, access)
    return _places(found.place, html), list(found.parts.values())


@dataclass
class _Images:
    what: str
    folders: Sequence[Path]
    access: Access
    parts: dict[str, Attached] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)  # what the html says -> content id

    def place(self, match: re.Match[str]) -> str:
        """A comment of Jinja2's, a style sheet, or a tag."""
        text = match[0]
        if text.startswith("{#"):
            return text
        if text[:6].lower() == "<style":
            return _css_url(self._css, text)
        shows = _shows_src(text) is not None
        return _attribute(lambda found: self._attribute(found, shows), text)

    def _attribute(self, match: re.Match[str], shows_src: bool) -> str:
        name, equals, value = (match[1] or "").lower(), match[2], match[3]
        if name == "style":
            return f"{match[1]}{equals}{_css_url(self._css, value)}"
        if name != "background" and not (name == "src" and shows_src):
            return match[0]
        mark = value[0] if value[0] in "\"'" else ""
        cid = self._embedded(entities.unescape(value.strip("\"'") if mark else value), css=False)
        return match[0] if cid is None else f"{match[1]}{equals}{mark or chr(34)}cid:{cid}{mark or chr(34)}"

    def _css(self, match: re.Match[str]) -> str:
        value = match[2]
        mark = value[0] if value[0] in "\"'" else ""
        cid = self._embedded(entities.unescape(value.strip(mark) if mark else value), css=True)
        return match[0] if cid is None else f"{match[1]}{mark}cid:{cid}{mark}{match[3]}"

    def _embedded(self, reference: str, css: bool) -> str | None:
        """The content id of an image; None for what is none of ours."""
        text = reference.strip()
        local = _scheme(text) is None
        if _marks(text) or not (local or text[:5].lower() == "data:"):
            return None
        if css and not (mimetypes.guess_type(text)[0] or "").startswith("image/") and local:
            return None  # a font, another style sheet
        if text not in self.known:
            data, name = self._file(text) if local else (fetch(text, self.what).data, None)
            self.known[text] = self._part(data, name, masked(text))
        return self.known[text]

    def _file(self, text: str) -> tuple[bytes, str]:
        """The bytes and the name of a file that the html names; a query behind the name is none of it."""
        self.access.check_file(text, self.what)
        names = dict.fromkeys((unquote(text), unquote(re.split(r"[?#]", text, maxsplit=1)[0])))
        root = self.folders[-1].resolve()
        for path in (folder / name for folder in self.folders for name in names):
            try:
                there = path.is_file()
                inside = path.resolve().is_relative_to(root)
                data = path.read_bytes() if there and inside else b""
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise MessageError(f"{self.what}: the image {str(path)!r} cannot be read: {reason}") from None
            if there and not inside:
                raise MessageError(f"{self.what}: the image {text!r} is outside the folder {root}")
            if there:
                return data, path.name
        raise MessageError(f"{self.what}: there is no image {self.folders[0] / next(reversed(names))}")

    def _part(self, data: bytes, name: str | None, shown: str) -> str:
        kind = _kind_of(data)
        if kind is None:
            raise MessageError(f"{self.what}: {shown!r} is no whole image of a type that mail clients show")
        name = name or "image" + (mimetypes.guess_extension(kind) or "")
        spec = AttachmentSpec(content=data, name=name, type=kind)
        digest = load_attachment(spec, self.what).digest
        cid = f"{digest[:24]}@embedded.image"
        if cid not in self.parts:
            if len(self.parts) >= MAX_IMAGES:
                raise MessageError(f"{self.what}: it has more than {MAX_IMAGES} images to embed")
            spec = AttachmentSpec(content=data, name=name, type=kind, cid=cid)
            self.parts[cid] = load_attachment(spec, self.what)
        return quote(cid, safe="@.")


def _kind_of(data: bytes) -> str | None:
    """The type of a whole image, by its first bytes and its end."""
    for kind, begins, end in _KINDS:
        if begins(data):
            return kind if end in data[-_TAIL:] or (end and data.rstrip(b"\0").endswith(end)) else None
    return None

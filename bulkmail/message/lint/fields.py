"""The header of any bytes, taken apart without trust: fields, encoded-words, addresses."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import getaddresses

from bulkmail.address import check_address

MAX_HEAD = 1 << 20  # bytes of a header that are looked at; servers take 100 KB or so
MAX_FIELDS = 5000  # looked at, lines that are none included; Gmail takes no more, and beyond that a header is an attack
MAX_ADDRESSES = 16_384  # bytes of a field looked at for addresses; the parser is slow for hostile input
MAX_VALUE = 100_000  # characters of a field looked at for encoded-words; Gmail takes 32 KB
MAX_WORD = 75  # RFC 2047 section 2

_header_end = re.compile(rb"\r?\n\r?\n")
_line = re.compile(rb"[^\n]*\n|[^\n]+")
_name = re.compile(rb"([!-9;-~]+)[ \t]*:").match
_fold = re.compile(r"\r?\n(?=[ \t])")
_word = re.compile(r"=\?([^?\s]*)\?([^?\s]*)\?([^?]*)\?=")
_between_words = re.compile(r"(\?=)\s+(?==\?)")


@dataclass(frozen=True, slots=True)
class Field:
    """raw: the whole lines; value: unfolded, without outer blanks, bytes beyond UTF-8 as surrogates."""

    name: str
    raw: bytes
    value: str

    @property
    def key(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Mailbox:
    """name: decoded; address: as check_address has it, None if it is none."""

    name: str
    text: str
    address: str | None

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2].lower() if self.address else ""


def split(data: bytes) -> tuple[bytes, bytes]:
    """(header section, body); newlines may be anything."""
    head, at = split_at(data, 0, len(data))
    return head, data[at:]


def split_at(data: bytes, start: int, end: int) -> tuple[bytes, int]:
    """(header section, where the body begins) of the part that is data[start:end]; its body is not copied."""
    if data.startswith((b"\n", b"\r\n"), start, end):
        return b"", data.index(b"\n", start) + 1
    found = _header_end.search(data, start, end)
    return (data[start:end], end) if found is None else (data[start : found.start()] + b"\r\n", found.end())


def parse(head: bytes, most: int = MAX_FIELDS) -> tuple[list[Field], list[bytes]]:
    """(fields, lines that belong to none), at most so many of both together."""
    fields: list[Field] = []
    strays: list[bytes] = []
    for lines in _logical(head[:MAX_HEAD]):
        if len(fields) + len(strays) == most:
            break
        found = _name(lines)
        if found is None:
            strays.append(lines)
            continue
        text = lines[found.end() :].decode("utf-8", "surrogateescape")
        fields.append(Field(found[1].decode("ascii"), lines, _fold.sub("", text).strip()))
    return fields, strays


def _logical(head: bytes) -> Iterator[bytes]:
    """Lines with their continuation lines."""
    held: list[bytes] = []
    for line in _line.findall(head):
        if held and line[:1] not in b" \t":
            yield b"".join(held)
            held = []
        held.append(line)
    if held:
        yield b"".join(held)


def decoded(value: str) -> tuple[str, list[str]]:
    """(the text with its encoded-words decoded, the encoded-words that cannot be)."""
    broken: list[str] = []
    out, at = [], 0
    value = _between_words.sub(r"\1", value[:MAX_VALUE])
    held, charset = b"", ""
    for found in _word.finditer(value):
        data = _word_bytes(found[2], found[3])
        name = found[1].partition("*")[0].lower()
        if found.start() > at or name != charset:
            out.append(_text(held, charset))
            held = b""
            out.append(value[at : found.start()])
        if data is None or not is_charset(name):
            broken.append(found[0])
            out.append(_text(held, charset) + found[0])
            held = b""
        else:
            held, charset = held + data, name
            if not _decodes(held, charset) and _is_last(value, found.end()):
                broken.append(found[0])
        at = found.end()
    out += [_text(held, charset), value[at:]]
    return "".join(out), broken


def _is_last(value: str, end: int) -> bool:
    """Whether no encoded-word follows at once: writers cut characters in two, readers join them."""
    return not value.startswith("=?", end)


def _word_bytes(encoding: str, text: str) -> bytes | None:
    try:
        raw = text.encode("ascii")
        if encoding in "bB" and encoding:
            return binascii.a2b_base64(raw + b"=" * (-len(raw) % 4))
        if encoding in "qQ" and encoding:
            return binascii.a2b_qp(raw, header=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are ones
        return None
    return None


def is_charset(name: str) -> bool:
    """Whether it is a charset of text that Python knows."""
    try:
        b"a".decode(name)
    except UnicodeError:  # of UTF-16, where one byte is no character
        return True
    except (LookupError, ValueError):
        return False
    return True


def _decodes(data: bytes, charset: str) -> bool:
    try:
        data.decode(charset)
    except Exception:  # a codec raises what it likes
        return False
    return True


def _text(data: bytes, charset: str) -> str:
    if not data:
        return ""
    try:
        return data.decode(charset, "replace")
    except Exception:  # a codec raises what it likes
        return data.decode("latin-1")


def words(value: str) -> list[str]:
    return [found[0] for found in _word.finditer(value[:MAX_VALUE])]


def mailboxes(value: str) -> list[Mailbox]:
    """The addresses of a field such as From, comments and groups understood; [] where nothing can be read."""
    if not value or len(value) > MAX_ADDRESSES:
        return []
    try:
        found = getaddresses([value])
    except Exception:  # the parser raises whatever its parts do for hostile values
        return []
    return [Mailbox(decoded(name)[0], address, _checked(address)) for name, address in found]


def _checked(text: str) -> str | None:
    try:
        return check_address(text)
    except ValueError:
        return None

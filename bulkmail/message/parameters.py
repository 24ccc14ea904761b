"""Parameters of Content-Type and Content-Disposition: quoted, or in the form for other scripts and long values.

RFC 2045 section 5.1 (grammar), RFC 2231 sections 3 and 4 (continuations, characters), RFC 2183 (file names). Nothing
that is written here can end its field, whatever the value holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

from bulkmail.errors import MessageError
from bulkmail.message.compiled import encoded_words
from bulkmail.urlparts import quoted

LINE = 76
MAX_VALUE = 1000  # characters: no file system has longer names
# Bytes of a file name up to which readers that know no RFC 2231 get it as encoded-words too.
MAX_FALLBACK = 150

_TOKEN = r"[A-Za-z0-9!#$&^_.+-]"
_token = re.compile(rf"{_TOKEN}+").fullmatch
# Content of a quoted string that every reader takes alike: no quotes or backslashes, no blanks at its ends, and nothing
# that some of them would decode once more.
_plain = re.compile(r"(?! )(?!.*=\?)[ !#-\[\]-~]*(?<! )").fullmatch
_unfit = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]").search
_type = re.compile(
    rf"({_TOKEN}{{1,127}})/({_TOKEN}{{1,127}})((?:[ \t]*;[ \t]*{_TOKEN}{{1,60}}=(?:[^\s\";]+|\"[^\"\r\n]*\"))*)[ \t]*"
).fullmatch
_parameter = re.compile(r";\s*([^=]+)=(?:\"([^\"]*)\"|([^\s;]+))").findall
_SAFE = "!#$&+-.^_`|~"  # attribute-char of RFC 2231 that quote() would encode


def split_type(text: str, what: str) -> tuple[str, dict[str, str]]:
    """("type/subtype" in lower case, its parameters). raises  MessageError  naming `what`"""
    found = _type(text)
    if found is None or found[1].lower() == "multipart":
        raise MessageError(f"{what}: type {quoted(text)}, expected a content type such as application/pdf")
    parameters = {key.strip().lower(): quoted or plain for key, quoted, plain in _parameter(found[3])}
    for name, value in parameters.items():
        check_value(value, f"{what}: the parameter {name!r} of the type")
    return f"{found[1]}/{found[2]}".lower(), parameters


def check_value(value: str, what: str) -> None:
    """raises  MessageError  naming `what` for what no parameter can hold"""
    if _unfit(value):
        raise MessageError(f"{what} {value!a} has a line break, control character or lone surrogate")
    if len(value) > MAX_VALUE:
        raise MessageError(f"{what} has {len(value)} characters, at most {MAX_VALUE} are possible")


def content_type(kind: str, parameters: Mapping[str, str], name: str | None = None) -> bytes:
    """The field. name: of a file, for readers that look for it here."""
    pieces = [piece for key, value in parameters.items() for piece in _parameter_of(key, value)]
    if name:
        pieces += _name_for_old_readers(name)
    return _folded(f"Content-Type: {kind}", pieces)


def disposition(kind: str, name: str | None) -> bytes:
    """Content-Disposition; kind: "attachment" or "inline"."""
    return _folded(f"Content-Disposition: {kind}", _parameter_of("filename", name) if name else ())


def _folded(line: str, pieces: Iterable[str]) -> bytes:
    done = ""
    for piece in pieces:
        if len(line) + 2 + len(piece.partition("\r\n")[0]) > LINE:
            done, line = f"{done}{line};\r\n", f" {piece}"
        else:
            line += f"; {piece}"
    return f"{done}{line}\r\n".encode()


def _parameter_of(name: str, value: str) -> Iterator[str]:
    if _token(value) and len(name) + len(value) + 4 <= LINE:
        yield f"{name}={value}"
    elif _plain(value) and len(name) + len(value) + 6 <= LINE:
        yield f'{name}="{value}"'
    else:
        yield from _extended(name, value)


def _extended(name: str, value: str) -> Iterator[str]:
    """In pieces that fit a line each, characters whole: some readers decode each piece by itself."""
    room = LINE - len(f" {name}*99*=utf-8'';")
    pieces = [""]
    for character in value:
        coded = quote(character, safe=_SAFE)
        if len(pieces[-1]) + len(coded) > room:
            pieces.append("")
        pieces[-1] += coded
    if len(pieces) == 1:
        yield f"{name}*=utf-8''{pieces[0]}"
        return
    yield f"{name}*0*=utf-8''{pieces[0]}"
    for number, piece in enumerate(pieces[1:], 1):
        yield f"{name}*{number}*={piece}"


def _name_for_old_readers(name: str) -> Iterator[str]:
    """As Outlook and others have long written and read it, though RFC 2047 section 5 has no encoded-words in quotes."""
    if _plain(name) and len(name) + 11 <= LINE:
        yield f'name="{name}"'
    elif len(name.encode()) <= MAX_FALLBACK:
        yield f'name="{encoded_words(name.encode(), len(" name=:"))[0].decode()}"'

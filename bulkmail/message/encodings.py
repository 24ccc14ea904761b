"""Transfer encodings of text parts (RFC 2045 section 6): which one a text gets, and the text in it."""

from __future__ import annotations

import re

from bulkmail.errors import MessageError
from bulkmail.message.base64_lines import encode_base64
from bulkmail.message.compiled import encode_text
from bulkmail.message.spec import ENCODINGS, Encoding

LINE = 78  # RFC 5322 section 2.1.1 ("SHOULD"): what wraps longer ones on the way breaks their signature
MAX_LINE = 998  # RFC 5322 section 2.1.1, RFC 5321 section 4.5.3.1.6; without CRLF

_ASCII = bytes(range(128))
_newline = re.compile(r"\r\n?").sub
# What 7bit text does not survive: control characters, long lines, blanks that relays strip, "From " that mailboxes
# quote (RFC 4155), and what begins like a boundary of ours.
_unfit = re.compile(rf"[^\t\n -~]|^From |[ \t]$|^--=_|^.{{{LINE + 1}}}", re.MULTILINE).search
_long_line = re.compile(rb"[^\r\n]{%d}" % (MAX_LINE + 1)).search


def choose_encoding(constant_text: str) -> Encoding:
    """How a text that is known but for the recipients' values is encoded: by one that carries any text.

    Base64 where more than every fourth byte is beyond ASCII (Cyrillic, Arabic, Chinese without much markup). It is the
    shorter one from a sixth on, but not by much, and people can read quoted-printable in a message's source.
    """
    data = constant_text.encode("utf-8", "surrogatepass")
    return "base64" if 4 * len(data.translate(None, _ASCII)) > len(data) else "quoted-printable"


def choose_whole(text: str) -> Encoding:
    """How a text that is wholly known is encoded: as it is, if nothing on its way can change it."""
    return choose_encoding(text) if _unfit(_newline("\n", text)) else "7bit"


def check_encoding(name: str, what: str) -> Encoding:
    """raises  MessageError"""
    for known in ENCODINGS:
        if name == known:
            return known
    raise MessageError(f"{what}: {name!r}, expected one of {', '.join(ENCODINGS)}")


def encode_whole(text: str, encoding: Encoding, what: str) -> bytes:
    """A text part, newlines CRLF and one at its end; dots are not escaped.

    raises  MessageError  naming `what` for text that this encoding cannot carry
    """
    text = text if text.endswith(("\n", "\r")) else text + "\n"
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise MessageError(f"{what}: it is not valid Unicode: {error.reason} at character {error.start}") from None
    if encoding == "quoted-printable":
        return encode_text(data)
    data = _newline("\n", text).replace("\n", "\r\n").encode()
    if encoding == "base64":
        return encode_base64(data)
    if encoding == "7bit" and not data.isascii():
        raise MessageError(f"{what}: it has characters beyond ASCII, which 7bit cannot carry")
    check_lines(data, what)
    return data


def check_lines(data: bytes, what: str) -> None:
    """raises  MessageError  naming `what` for a line or a character that no server takes in what is not encoded"""
    if (found := _long_line(data)) is not None:
        line = data.count(b"\n", 0, found.start()) + 1
        raise MessageError(f"{what}: line {line} has more than {MAX_LINE} bytes (RFC 5322 section 2.1.1)")
    if b"\0" in data:
        raise MessageError(f"{what}: there is a NUL at byte {data.index(0)}, which no mail may hold")

"""How free text stands in a parameter of MAIL or RCPT: xtext (RFC 3461 section 4) and typed addresses (RFC 6533).

Whatever comes out is ASCII from "!" to "~" without "=": no text can end a parameter, a command or a line.
Every refusal is a ValueError whose text says what was found.
"""

from __future__ import annotations

import re

from bulkmail.address import check_address

MAX_ENVID = 100  # characters before they are encoded, RFC 3461 section 4.4
MAX_ORCPT = 500  # bytes of type and encoded address: by so much ORCPT may lengthen RCPT, RFC 3461 section 4.2

_printable = re.compile(r"[ -~]+").fullmatch
# "<" and ">" may stand for themselves; encoded, they cannot mislead a server that looks for the end of the path.
_not_xchar = re.compile(rb"[^!-*,-;?-~]").sub
# Types are registered words. A quoted local part may have a ";" too, but does not begin like one.
_typed = re.compile(r"([A-Za-z0-9-]+);(.*)", re.DOTALL).fullmatch
_not_qchar = re.compile(r"[^!-*,-<>-\[\]-~]").sub
_unwritable = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]").search


def xtext(text: str) -> bytes:
    """Printable ASCII as xtext: "a+b=c d" becomes b"a+2Bb+3Dc+20d". raises  ValueError"""
    if not _printable(text):
        raise ValueError("it is empty" if not text else "it has other characters than printable ASCII")
    return _not_xchar(lambda found: b"+%02X" % found[0][0], text.encode("ascii"))


def envelope_id(text: str) -> bytes:
    """The value of ENVID. raises  ValueError"""
    if len(text) > MAX_ENVID:
        raise ValueError(f"it has {len(text)} characters")
    return xtext(text)


def original_recipient(text: str) -> bytes:
    """The value of ORCPT, for "type;address", or for an address alone: rfc822, or utf-8 where that needs it.

    The utf-8 form is the one of 7 bits (RFC 6533 section 3), which also servers without SMTPUTF8 take.
    raises  ValueError
    """
    found = _typed(text)
    kind, address = (found[1], found[2]) if found else ("", check_address(text))
    if not kind:
        kind = "rfc822" if address.isascii() else "utf-8"
    value = _utf8_address(address) if kind.lower() == "utf-8" else xtext(address)
    value = kind.encode("ascii") + b";" + value
    if len(value) > MAX_ORCPT:
        raise ValueError(f"it has {len(value)} bytes when it is encoded")
    return value


def _utf8_address(address: str) -> bytes:
    if not address or _unwritable(address):
        raise ValueError("it has a control character or lone surrogate" if address else "it is empty")
    return _not_qchar(lambda found: rf"\x{{{ord(found[0]):X}}}", address).encode("ascii")

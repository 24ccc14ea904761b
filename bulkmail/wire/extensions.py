"""What an EHLO reply offers (RFC 5321 section 4.1.1.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bulkmail.wire.reply import Reply

MAX_EXTENSIONS = 100  # real servers announce about fifteen; the rest of a longer list is not read
MAX_DIGITS = 15  # of a number that a server announces; a longer one is no limit that anything could reach


class Ask(NamedTuple):
    """What a transaction asks of an extension.

    keyword    the extension's EHLO keyword, such as "DSN"
    parameter  what stands behind MAIL where the server offers it, such as b" RET=HDRS ENVID=x"
    lacking    where it does not: None (left out), or the sentence with which the transaction is refused here
    check      given the extension's EHLO parameters: a sentence if this cannot be had, or None
    """

    keyword: str
    parameter: bytes
    lacking: str | None = None
    check: Callable[[str], str | None] | None = None


def parse_extensions(reply: Reply) -> dict[str, str]:
    """Keyword (upper case) to parameters, both as text: {"SIZE": "10240000", "PIPELINING": "", "AUTH": "PLAIN LOGIN"}.

    "AUTH=PLAIN", an old form that some servers send beside the right one, counts as AUTH.
    """
    found: dict[str, str] = {}
    for line in reply.lines[1 : MAX_EXTENSIONS + 1]:
        keyword, _, parameters = line.strip().partition(" ")
        if keyword.upper().startswith("AUTH="):
            keyword, parameters = "AUTH", f"{keyword[5:]} {parameters}"
        keyword = keyword.upper()
        if keyword == "AUTH" and "AUTH" in found:
            parameters = " ".join(dict.fromkeys(f"{found['AUTH']} {parameters}".split()))
        if keyword:
            found[keyword] = parameters.strip()
    return found


def size_limit(extensions: dict[str, str]) -> int:
    """The largest message in bytes (RFC 1870 section 3); 0: no limit, or none that is known."""
    return _number(extensions.get("SIZE", ""))


def limits(extensions: dict[str, str]) -> dict[str, int]:
    """The session's limits by name, such as {"RCPTMAX": 50} (RFC 9422 section 3); one without a number is left out."""
    words = (word.partition("=") for word in extensions.get("LIMITS", "").split())
    return {name.upper(): number for name, _, value in words if (number := _number(value))}


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else 0

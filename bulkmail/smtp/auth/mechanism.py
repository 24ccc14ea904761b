"""What a SASL mechanism is given, and what it may yield.

A mechanism is a generator function. It is called with `Credentials`, yields responses and is sent challenges:

    bytes      a response; the first is the initial response, or None where the server speaks first
    Explained  a response to a challenge that said what is wrong; its text goes into the error that follows
    function   called in a thread, for what takes long; its result is sent in place of a challenge

It may raise AuthError. Where the server accepts the login, the generator is closed at the yield where it stands: one
that has not yet seen the server's proof raises AuthError from GeneratorExit, and the login has failed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from bulkmail.smtp.wirelog import CONTROL

MAX_WORDS = 300  # characters of what a server or program says that an error shows: enough for a sentence or two


@dataclass(frozen=True)
class ChannelBinding:
    """What only the two ends of this TLS connection know (RFC 5056). kind: its registered name."""

    kind: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Credentials:
    """What a mechanism may use. Neither password nor token is ever shown.

    offered  the mechanisms that the server announced
    binding  None without TLS
    """

    user: str
    password: str = field(default="", repr=False)
    host: str = ""
    port: int = 0
    token: str = field(default="", repr=False)
    offered: tuple[str, ...] = ()
    binding: ChannelBinding | None = None


class Explained(bytes):
    """A response, with words for the error that will follow."""

    text: str = ""


Later = Callable[[], Any]
Steps = Generator[bytes | Later | None, Any, Any]
Mechanism = Callable[[Credentials], Steps]


def explained(response: bytes, text: str) -> Explained:
    answer = Explained(response)
    answer.text = text
    return answer


def readable(said: bytes | str) -> str:
    """What the other side said, as an error may show it: one line, no control characters, not too long."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    text = CONTROL.sub(" ", text).strip()
    return text if len(text) <= MAX_WORDS else text[:MAX_WORDS] + "…"


def token_trouble(challenge: bytes) -> str:
    """The error challenge of OAUTHBEARER (RFC 7628 section 3.2.2) and XOAUTH2: a JSON object, mostly."""
    try:
        told = json.loads(challenge)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        return readable(challenge)
    return readable(", ".join(f"{name} {value}" for name, value in told.items()))

"""AUTH (RFC 4954): which mechanism, and its dialogue. One small file a mechanism; others by `register_auth`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bulkmail.errors import AuthError, AuthUnavailable, ConfigError, ProtocolError
from bulkmail.smtp.auth import login, plain


@dataclass(frozen=True)
class Credentials:
    """What a mechanism may use; the password is never shown."""

    user: str
    password: str = field(repr=False)
    host: str = ""


# Yields responses (bytes; the first is the initial response, or None) and is sent challenges.
Mechanism = Callable[[Credentials], Generator[bytes | None, bytes, Any]]

MECHANISMS: dict[str, Mechanism] = {"PLAIN": plain.respond, "LOGIN": login.respond}
PREFERRED = ("PLAIN", "LOGIN")  # what auth=auto tries, in this order
MAX_ROUNDS = 16  # a server that challenges for ever is not authenticating anybody


def register_auth(name: str, mechanism: Mechanism) -> None:
    """Make `auth=name` usable. `mechanism(credentials)` is a generator function: see `Mechanism`."""
    if not name or not name.isascii() or not all(c.isalnum() or c in "-_" for c in name):
        raise ConfigError(f"{name!r} is not a SASL mechanism name (letters, digits, - and _)")
    MECHANISMS[name.upper()] = mechanism


def choose(wanted: str, offered: str | None) -> str:
    """The mechanism to use. offered: the parameter of the server's AUTH extension, or None where it has none."""
    available = (offered or "").upper().split()
    if wanted.lower() != "auto":
        name = wanted.upper()
        if name not in MECHANISMS:
            raise ConfigError(f"auth={wanted}: no such mechanism; known are {', '.join(sorted(MECHANISMS)).lower()}")
        if name not in available:
            raise AuthUnavailable(f"the server does not offer AUTH {name} (it offers: {' '.join(available) or 'no AUTH'})")
        return name
    for name in PREFERRED:
        if name in available:
            return name
    raise AuthUnavailable(
        f"credentials were given, and the server offers no mechanism for them (it offers: {' '.join(available) or 'no AUTH'})"
    )


async def authenticate(session: Any, mechanism: str, credentials: Credentials) -> None:
    """Run the dialogue. Raises AuthError with the server's reply; nothing of the credentials is in it."""
    steps = MECHANISMS[mechanism](credentials)
    initial = next(steps)
    line = f"AUTH {mechanism}".encode()
    if initial is not None:
        line += b" " + (base64.b64encode(initial) or b"=")
    reply = await session.call(line + b"\r\n", "AUTH")
    for _ in range(MAX_ROUNDS):
        if reply.code != 334:
            break
        try:
            answer = base64.b64encode(steps.send(_challenge(reply)) or b"")
        except StopIteration:
            answer = b"*"  # cancels (RFC 4954 section 4)
        reply = await session.call(answer + b"\r\n", "AUTH")
    steps.close()
    if reply.code == 334:
        raise AuthError(f"the server did not end AUTH {mechanism} within {MAX_ROUNDS} challenges", command="AUTH")
    if not 200 <= reply.code < 300:
        raise AuthError(f"the server refused the login of {credentials.user!r}: {reply}", reply=reply, command="AUTH")


def _challenge(reply: Mapping[str, Any] | Any) -> bytes:
    try:
        return base64.b64decode(reply.lines[0].strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(f"the server's AUTH challenge is not base64: {reply}", reply=reply, command="AUTH") from None

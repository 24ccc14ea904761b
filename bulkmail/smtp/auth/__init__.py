"""AUTH (RFC 4954): which mechanism, and its dialogue. One small file a mechanism; others by `register_auth`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from bulkmail.errors import AuthError, AuthUnavailable, BulkmailError, ConfigError, ConnectionLost, ProtocolError
from bulkmail.smtp.auth import login, plain
from bulkmail.wire.reply import Reply


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
            raise AuthUnavailable(
                f"the server does not offer AUTH {name} (it offers: {' '.join(available) or 'no AUTH'})"
            )
        return name
    for name in PREFERRED:
        if name in available:
            return name
    raise AuthUnavailable(
        "credentials were given, and the server offers no mechanism for them "
        f"(it offers: {' '.join(available) or 'no AUTH'})"
    )


async def authenticate(session: Any, mechanism: str, credentials: Credentials) -> None:
    """Run the dialogue. Raises AuthError with the server's reply; nothing of the credentials is in it.

    A dialogue that ends before its last reply ends the connection: the server would take what comes for a response.
    """
    steps = MECHANISMS[mechanism](credentials)
    first = session.call(_first_line(mechanism, next(steps)), "AUTH")
    try:
        reply = await _dialogue(session, mechanism, steps, first)
    except BaseException as error:
        session.abort(error if isinstance(error, BulkmailError) else ConnectionLost("the login was abandoned"))
        raise
    if reply.code == 421:
        raise session.error or session.wire.parting()
    if not 200 <= reply.code < 300:
        raise AuthError(f"the server refused the login of {credentials.user!r}: {reply}", reply=reply, command="AUTH")


def _first_line(mechanism: str, initial: bytes | None) -> bytes:
    line = b"AUTH " + mechanism.encode()
    if initial is not None:
        line += b" " + (base64.b64encode(initial) or b"=")
    return line + b"\r\n"


async def _dialogue(
    session: Any, mechanism: str, steps: Generator[bytes | None, bytes, Any], first: Awaitable[Reply]
) -> Reply:
    reply = await first
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
    return reply


def _challenge(reply: Reply) -> bytes:
    try:
        return base64.b64decode(reply.lines[0].strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(
            f"the server's AUTH challenge is not base64: {reply}", reply=reply, command="AUTH"
        ) from None

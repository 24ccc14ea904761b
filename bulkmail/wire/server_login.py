"""The server's side of the SASL mechanisms: generators that yield challenges, are sent responses, return credentials.

A response that the mechanism cannot use is a ValueError. Base64, lines and limits are the codec's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

Dialogue = Generator[bytes, bytes, tuple[str, str]]


def plain() -> Dialogue:
    """RFC 4616: authorization identity, user and password, with NULs between. The first is not looked at."""
    _, user, password = (yield b"").split(b"\0")
    return user.decode(), password.decode()


def login() -> Dialogue:
    """The LOGIN that no RFC has, as draft-murchison-sasl-login describes it."""
    user = (yield b"Username:").decode()
    password = (yield b"Password:").decode()
    return user, password


MECHANISMS: dict[str, Callable[[], Dialogue]] = {"PLAIN": plain, "LOGIN": login}

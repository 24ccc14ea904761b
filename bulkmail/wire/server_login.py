"""The server's side of AUTH (RFC 4954): the dialogue that a mechanism wants, in base64 lines.

A mechanism is a generator: it yields challenges, is sent responses and returns (user, password). A response that it
cannot use is a ValueError.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
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


class Login:
    """One AUTH command and the lines that follow it.

    challenge    the line to send now, without CR LF
    credentials  (user, password) once they are known
    """

    def __init__(self, mechanism: str) -> None:
        """KeyError for a mechanism that there is not."""
        self.mechanism = mechanism
        self.credentials: tuple[str, str] | None = None
        self._dialogue = MECHANISMS[mechanism]()
        self._challenge(next(self._dialogue))

    def _challenge(self, challenge: bytes) -> None:
        self.challenge = b"334 " + b2a_base64(challenge, newline=False)

    def answer(self, line: bytes) -> None:
        """A response. ValueError: not base64, or not what the mechanism wants."""
        try:
            self._challenge(self._dialogue.send(a2b_base64(line, strict_mode=True) if line else b""))
        except StopIteration as done:
            self.credentials = done.value

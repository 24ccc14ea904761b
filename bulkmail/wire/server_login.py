"""The server's side of AUTH (RFC 4954): the dialogue that a mechanism wants, in base64 lines.

A mechanism is a generator: it yields challenges, is sent responses and returns (user, password), or (user, token). A
response that it cannot use is a ValueError.
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


def xoauth2() -> Dialogue:
    """developers.google.com/workspace/gmail/imap/xoauth2-protocol: user=NAME ^A auth=Bearer TOKEN ^A ^A"""
    fields = fields_of((yield b""))
    return fields["user"], bearer(fields["auth"])


def oauthbearer() -> Dialogue:
    """RFC 7628 section 3.1: a header with the user, if one is named, then host, port and auth."""
    header, _, rest = (yield b"").partition(b"\1")
    binding, user, *more = header.decode().split(",")
    if binding not in ("n", "y") or more != [""] or (user and not user.startswith("a=")):
        raise ValueError("not a header of GS2")
    return user[2:].replace("=2C", ",").replace("=3D", "="), bearer(fields_of(rest)["auth"])


def fields_of(text: bytes) -> dict[str, str]:
    """NAME=VALUE, each with ^A behind it, and one more at the end. To ask for one that is not there is a ValueError."""
    *pairs, empty, last = text.decode().split("\1")
    if empty or last:
        raise ValueError("no ^A ^A at the end")
    return _Fields(pair.split("=", 1) for pair in pairs)


class _Fields(dict[str, str]):
    def __missing__(self, name: str) -> str:
        raise ValueError(f"no {name}")


def bearer(value: str) -> str:
    """The token of "Bearer TOKEN" (RFC 6750 section 2.1)."""
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise ValueError("no bearer token")
    return token


MECHANISMS: dict[str, Callable[[], Dialogue]] = {
    "PLAIN": plain,
    "LOGIN": login,
    "XOAUTH2": xoauth2,
    "OAUTHBEARER": oauthbearer,
}
# What is wrong with a token, as a challenge: Gmail's words, and RFC 7628's (section 3.2.2).
TROUBLES = {
    "XOAUTH2": b'{"status":"401","schemes":"bearer"}',
    "OAUTHBEARER": b'{"status":"invalid_token"}',
}


class Login:
    """One AUTH command and the lines that follow it.

    challenge    the line to send now, without CR LF
    credentials  (user, password) once they are known
    trouble      in base64, what a client is sent before its token is refused; None where there are no such words
    """

    def __init__(self, mechanism: str) -> None:
        """KeyError for a mechanism that there is not."""
        self.mechanism = mechanism
        self.credentials: tuple[str, str] | None = None
        self._dialogue = MECHANISMS[mechanism]()
        self._challenge(next(self._dialogue))

    @property
    def trouble(self) -> bytes | None:
        words = TROUBLES.get(self.mechanism)
        return None if words is None else b2a_base64(words, newline=False)

    def _challenge(self, challenge: bytes) -> None:
        self.challenge = b"334 " + b2a_base64(challenge, newline=False)

    def answer(self, line: bytes) -> None:
        """A response. ValueError: not base64, or not what the mechanism wants."""
        try:
            self._challenge(self._dialogue.send(a2b_base64(line, strict_mode=True) if line else b""))
        except StopIteration as done:
            self.credentials = done.value

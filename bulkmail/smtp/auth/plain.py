"""AUTH PLAIN (RFC 4616)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any


def respond(credentials: Any) -> Generator[bytes | None, bytes, None]:
    yield b"\0" + credentials.user.encode() + b"\0" + credentials.password.encode()

"""AUTH PLAIN (RFC 4616)."""

from __future__ import annotations

from bulkmail.smtp.auth.mechanism import Credentials, Steps


def respond(credentials: Credentials) -> Steps:
    yield b"\0" + credentials.user.encode() + b"\0" + credentials.password.encode()

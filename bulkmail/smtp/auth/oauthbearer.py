"""AUTH OAUTHBEARER (RFC 7628)."""

from __future__ import annotations

from bulkmail.smtp.auth.mechanism import Credentials, Steps, explained, token_trouble


def respond(credentials: Credentials) -> Steps:
    user = credentials.user.replace("=", "=3D").replace(",", "=2C")  # RFC 5801 section 4, saslname
    header = f"n,{'a=' + user if user else ''},"
    where = f"host={credentials.host}\1port={credentials.port}\1" if credentials.port else ""
    trouble = yield f"{header}\1{where}auth=Bearer {credentials.token}\1\1".encode()
    yield explained(b"\1", token_trouble(trouble))  # RFC 7628 section 3.2.3

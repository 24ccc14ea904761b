"""AUTH XOAUTH2 (developers.google.com/workspace/gmail/imap/xoauth2-protocol): a token, before there was RFC 7628."""

from __future__ import annotations

from bulkmail.smtp.auth.mechanism import Credentials, Steps, explained, token_trouble


def respond(credentials: Credentials) -> Steps:
    trouble = yield f"user={credentials.user}\1auth=Bearer {credentials.token}\1\1".encode()
    yield explained(b"", token_trouble(trouble))

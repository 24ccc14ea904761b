"""AUTH EXTERNAL (RFC 4422 appendix A): who we are, the client certificate has said; the user is whom to act as."""

from __future__ import annotations

from bulkmail.smtp.auth.mechanism import Credentials, Steps


def respond(credentials: Credentials) -> Steps:
    yield credentials.user.encode()

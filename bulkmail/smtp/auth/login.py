"""AUTH LOGIN (draft-murchison-sasl-login): two prompts whose words mean nothing; user first, then password."""

from __future__ import annotations

from bulkmail.smtp.auth.mechanism import Credentials, Steps


def respond(credentials: Credentials) -> Steps:
    yield None
    yield credentials.user.encode()
    yield credentials.password.encode()

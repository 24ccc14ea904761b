"""AUTH CRAM-MD5 (RFC 2195): the password stays here, but whoever listens can try out passwords at home."""

from __future__ import annotations

import hmac

from bulkmail.smtp.auth.mechanism import Credentials, Steps


def respond(credentials: Credentials) -> Steps:
    challenge = yield None
    digest = hmac.new(credentials.password.encode(), challenge, "md5").hexdigest()
    yield f"{credentials.user} {digest}".encode()

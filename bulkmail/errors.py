"""Every error that bulkmail raises: what it is called, how much of the work it ends, whether trying again can help.

Nothing of bulkmail is imported here. `code`, `permanent` and `scope` have a value for each class; one error may differ
from its class (a 451 is not permanent although `EnvelopeRefused` for a 550 is), so all three are attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

RECIPIENT, MESSAGE, CONNECTION, RELAY, JOB = "recipient", "message", "connection", "relay", "job"


class BulkmailError(Exception):
    """The root of all errors.

    code       a short constant such as "ETIMEDOUT"
    permanent  True: the same attempt again cannot succeed
    scope      how much it ends: "recipient", "message", "connection", "relay" or "job"
    reply      the server's `Reply`, or None
    command    the SMTP command that was answered or waited for ("MAIL", "end of data"), or None
    kind       what the reply means in one word, such as "mailbox_full" (docs/replies.md), or None

    str() names what happened; it never holds a password, the message text or another recipient.
    """

    code: str = "EBULKMAIL"
    permanent: bool = False
    scope: str = JOB
    kind: str | None = None

    def __init__(
        self,
        message: str = "",
        *,
        reply: Any = None,
        command: str | None = None,
        permanent: bool | None = None,
        scope: str | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reply = reply
        self.command = command
        if kind is not None:
            self.kind = kind
        if permanent is not None:
            self.permanent = permanent
        elif reply is not None:
            self.permanent = reply.code >= 500
        if scope is not None:
            self.scope = scope


class ConfigError(BulkmailError, ValueError):
    """An option, URL or argument that cannot be used. Nothing was sent."""

    code, permanent, scope = "ECONFIG", True, JOB


class ManifestError(ConfigError):
    """A manifest (or what it names: recipients, templates, attachments) that cannot be used. Nothing was sent.

    path      the JSON path of the first problem, such as "$.relays[0].url"
    problems  all problems, each (JSON path, sentence)
    """

    code = "EMANIFEST"

    def __init__(self, message: str = "", *, path: str = "$", problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.path = path
        self.problems = tuple(problems) or ((path, message),)


class ResolveError(BulkmailError, ConnectionError):
    """A host name that does not resolve."""

    code, scope = "EDNS", RELAY


class ConnectError(BulkmailError, ConnectionError):
    """No connection: refused, unreachable, or the server's greeting was a refusal (then `reply` has it)."""

    code, scope = "ECONNECTION", RELAY


class ConnectionLost(BulkmailError, ConnectionError):
    """An established connection ended before the work on it did. What was in flight was not taken."""

    code, scope = "ELOST", CONNECTION


class InDoubt(ConnectionLost):
    """The connection or the deadline ended after the end of data was sent and before its reply came.

    The server may have taken the message; SMTP has no way to ask (RFC 1047). Sending again may deliver it twice.
    """

    code, scope = "EINDOUBT", MESSAGE


class TimedOut(BulkmailError, TimeoutError):
    """A deadline passed. `phase`: "dns", "connect", "proxy", "greeting", "command" or "data"."""

    code, scope = "ETIMEDOUT", CONNECTION

    def __init__(self, message: str = "", *, phase: str = "command", **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.phase = phase


class TlsError(BulkmailError, ConnectionError):
    """TLS is required and cannot be had, or the certificate does not prove the name."""

    code, scope = "ETLS", RELAY


class ProxyError(BulkmailError, ConnectionError):
    """A proxy that cannot be reached or that refuses. `proxy`: its URL, password masked; `reply_code`: its own code."""

    code, scope = "EPROXY", RELAY

    def __init__(self, message: str = "", *, proxy: str = "", reply_code: int | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.proxy = proxy
        self.reply_code = reply_code


class ProtocolError(BulkmailError):
    """The peer broke SMTP: an unparsable reply, a reply to nothing, text before TLS. The connection is not reused."""

    code, scope = "EPROTOCOL", CONNECTION


class AuthError(BulkmailError):
    """The server refused the credentials."""

    code, scope = "EAUTH", RELAY


class AuthUnavailable(AuthError):
    """Credentials were given and cannot be used: no common mechanism, or only in clear text."""

    code, permanent = "ENOAUTH", True


class EnvelopeRefused(BulkmailError):
    """MAIL or RCPT was refused."""

    code, scope = "EENVELOPE", RECIPIENT


class MessageRefused(BulkmailError):
    """DATA, or the message itself, was refused."""

    code, scope = "EMESSAGE", MESSAGE


class MessageError(BulkmailError, ValueError):
    """A message that cannot be composed: a line break in a header, a missing file, a template that fails."""

    code, permanent, scope = "ECONTENT", True, MESSAGE


class JournalError(BulkmailError):
    """A journal that cannot be used: in use, of another job, damaged, or the disk is full."""

    code, scope = "EJOURNAL", JOB

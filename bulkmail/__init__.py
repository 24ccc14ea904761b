"""bulkmail: one JSON manifest, a newsletter to millions, and an exact record of what happened to each recipient.

The public names, and nothing else. Each is loaded when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "bulkmail.errors": (
        "AuthError",
        "AuthUnavailable",
        "BulkmailError",
        "ConfigError",
        "ConnectError",
        "ConnectionLost",
        "EnvelopeRefused",
        "InDoubt",
        "JournalError",
        "ManifestError",
        "MessageError",
        "MessageRefused",
        "ProtocolError",
        "ProxyError",
        "ResolveError",
        "TimedOut",
        "TlsError",
    ),
    "bulkmail.wire.reply": ("Reply",),
    "bulkmail.smtp.envelope": ("DeliverBy", "Dsn", "Envelope", "Receipt", "Recipient", "Rejected", "ServerInfo"),
    "bulkmail.smtp.connection": ("Connection",),
    "bulkmail.smtp.verify": ("VerifyReport", "VerifyStep", "probe"),
    "bulkmail.net.certificate": ("Certificate",),
    "bulkmail.net.proxies.handlers": ("Proxied", "Target"),
    "bulkmail.proxyhandlers": ("register_proxy",),
    "bulkmail.proxyurl": ("ProxyUrl",),
    "bulkmail.smtp.auth": ("register_auth",),
    "bulkmail.pool.mailer": ("Mailer", "send"),
    "bulkmail.proxyproperties": ("proxies_from_properties",),
    "bulkmail.message.dkim": ("Dkim",),
    "bulkmail.message.message": ("Attachment", "Calendar", "Message"),
    "bulkmail.message.finding": ("Finding",),
    "bulkmail.job.job": ("Job",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "sink":
        return importlib.import_module("bulkmail.sink")
    if name not in _HOME:
        raise AttributeError(f"module 'bulkmail' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


if TYPE_CHECKING:
    from bulkmail import sink as sink
    from bulkmail.errors import AuthError as AuthError
    from bulkmail.errors import AuthUnavailable as AuthUnavailable
    from bulkmail.errors import BulkmailError as BulkmailError
    from bulkmail.errors import ConfigError as ConfigError
    from bulkmail.errors import ConnectError as ConnectError
    from bulkmail.errors import ConnectionLost as ConnectionLost
    from bulkmail.errors import EnvelopeRefused as EnvelopeRefused
    from bulkmail.errors import InDoubt as InDoubt
    from bulkmail.errors import JournalError as JournalError
    from bulkmail.errors import ManifestError as ManifestError
    from bulkmail.errors import MessageError as MessageError
    from bulkmail.errors import MessageRefused as MessageRefused
    from bulkmail.errors import ProtocolError as ProtocolError
    from bulkmail.errors import ProxyError as ProxyError
    from bulkmail.errors import ResolveError as ResolveError
    from bulkmail.errors import TimedOut as TimedOut
    from bulkmail.errors import TlsError as TlsError
    from bulkmail.job.job import Job as Job
    from bulkmail.message.dkim import Dkim as Dkim
    from bulkmail.message.finding import Finding as Finding
    from bulkmail.message.message import Attachment as Attachment
    from bulkmail.message.message import Calendar as Calendar
    from bulkmail.message.message import Message as Message
    from bulkmail.net.certificate import Certificate as Certificate
    from bulkmail.net.proxies.handlers import Proxied as Proxied
    from bulkmail.net.proxies.handlers import Target as Target
    from bulkmail.pool.mailer import Mailer as Mailer
    from bulkmail.pool.mailer import send as send
    from bulkmail.proxyhandlers import register_proxy as register_proxy
    from bulkmail.proxyproperties import proxies_from_properties as proxies_from_properties
    from bulkmail.proxyurl import ProxyUrl as ProxyUrl
    from bulkmail.smtp.auth import register_auth as register_auth
    from bulkmail.smtp.connection import Connection as Connection
    from bulkmail.smtp.envelope import DeliverBy as DeliverBy
    from bulkmail.smtp.envelope import Dsn as Dsn
    from bulkmail.smtp.envelope import Envelope as Envelope
    from bulkmail.smtp.envelope import Receipt as Receipt
    from bulkmail.smtp.envelope import Recipient as Recipient
    from bulkmail.smtp.envelope import Rejected as Rejected
    from bulkmail.smtp.envelope import ServerInfo as ServerInfo
    from bulkmail.smtp.verify import VerifyReport as VerifyReport
    from bulkmail.smtp.verify import VerifyStep as VerifyStep
    from bulkmail.smtp.verify import probe as probe
    from bulkmail.wire.reply import Reply as Reply

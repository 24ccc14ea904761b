"""What a caller says of a message's transport, and what it is told afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bulkmail.address import address_bytes, check_address
from bulkmail.errors import BulkmailError, ConfigError, EnvelopeRefused
from bulkmail.wire.reply import Reply


@dataclass(frozen=True)
class Envelope:
    """Sender and recipients of one transaction (RFC 5321 section 2.3.1).

    sender      address, or "" for the null sender
    recipients  addresses
    body        None (what the data needs), "7bit" or "8bitmime" (insists that the server offers it)
    smtputf8    addresses or headers beyond ASCII: asked of the server (RFC 6531)
    """

    sender: str
    recipients: Sequence[str]
    size: int | None = None
    body: str | None = None
    smtputf8: bool = False
    dsn: Any = None
    require_tls: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "recipients", (self.recipients,) if isinstance(self.recipients, str) else tuple(self.recipients)
        )
        if self.dsn is not None or self.require_tls or self.body == "binarymime":
            raise ConfigError("dsn, require_tls and binarymime are not in this version yet")
        if any(not isinstance(r, str) for r in self.recipients):
            raise ConfigError("recipients are strings: recipients with DSN options are not in this version yet")
        if self.body not in (None, "7bit", "8bitmime"):
            raise ConfigError(f"body is {self.body!r}, expected '7bit' or '8bitmime'")


EIGHT_BIT, UTF8, EIGHT_BIT_ONLY = 1, 2, 4  # Transaction flags


def transaction_flags(envelope: Envelope | None, content: bytes | None, addresses: Iterable[bytes]) -> int:
    """What a transaction asks of the server. content: None where it is streamed, and so may hold anything."""
    body = envelope.body if envelope is not None else None
    flags = EIGHT_BIT | EIGHT_BIT_ONLY if body == "8bitmime" else 0
    if body is None and (content is None or not content.isascii()):
        flags = EIGHT_BIT
    if (envelope is not None and envelope.smtputf8) or not all(address.isascii() for address in addresses):
        flags |= UTF8
    return flags


def wire_address(address: str) -> bytes:
    """An address as MAIL and RCPT want it. Raises EnvelopeRefused with the reason if it is none."""
    try:
        return address_bytes(check_address(address))
    except ValueError as error:
        raise EnvelopeRefused(f"{address!r} is not an address: {error}", permanent=True) from None


@dataclass(frozen=True)
class Rejected:
    """A recipient that the server refused."""

    address: str
    reply: Reply | None
    error: BulkmailError


@dataclass
class Receipt:
    """What became of one message.

    accepted, rejected  recipients; reply: the server's last word; tls: "TLSv1.3" or None
    bytes               size of the content
    envelope_seconds, data_seconds   from MAIL to DATA's reply, and from there to the end
    index, error        of Mailer.send_many: place in the input, and why nobody was accepted (or None)
    """

    accepted: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    reply: Reply | None = None
    message_id: str | None = None
    relay: str | None = None
    egress: str | None = None
    tls: str | None = None
    bytes: int = 0
    envelope_seconds: float = 0.0
    data_seconds: float = 0.0
    index: int = 0
    error: BulkmailError | None = None


@dataclass(frozen=True)
class ServerInfo:
    """What a server said of itself. extensions: EHLO keywords with parameters; tls: version or None; auth: as used."""

    greeting: str
    extensions: dict[str, str]
    peer: str
    tls: str | None
    auth: str | None

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bulkmail.errors import BulkmailError
from bulkmail.smtp.envelope import DeliverBy, Dsn, Recipient, Rejected
from bulkmail.wire.reply import Reply

@dataclass(frozen=True)
class Envelope:
    sender: str
    recipients: Sequence[str | Recipient]
    size: int | None = None
    body: str | None = None
    smtputf8: bool = False
    dsn: Dsn | None = None
    require_tls: bool = False
    deliver_by: DeliverBy | None = None
    mt_priority: int | None = None
    hold_for: float | None = None
    hold_until: datetime | str | None = None
    @property
    def addresses(self) -> list[str]: ...

@dataclass
class Receipt:
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

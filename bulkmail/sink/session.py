"""What a hook, a store and a test see of a client: its connection, its envelope, the message it left."""

from __future__ import annotations

from asyncio import BaseTransport
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bulkmail.wire.server import ServerCodec

Parameters = dict[str, str | None]


@dataclass(slots=True)
class Envelope:
    """MAIL and the RCPTs that were accepted. Parameters are upper-case names; None for one without value."""

    sender: str
    parameters: Parameters = field(default_factory=dict)
    recipients: list[str] = field(default_factory=list)


class Session:
    """One connection.

    id                                 in the greeting and in every log record (`cid`)
    local_address, local_port          ours
    remote_address, remote_port        the client's
    proxy_address, proxy_port          None: there is no PROXY protocol in this version
    client_hostname                    None: names are not looked up
    helo, user                         what it said; None before
    secure, tls                        whether TLS is on, and its version ("TLSv1.3")
    envelope                           of the open transaction, or None
    """

    proxy_address: str | None = None
    proxy_port: int | None = None
    client_hostname: str | None = None

    def __init__(self, ident: str, transport: BaseTransport, codec: ServerCodec) -> None:
        self.id = ident
        self.local_address, self.local_port = address_of(transport, "sockname")
        self.remote_address, self.remote_port = address_of(transport, "peername")
        self.envelope: Envelope | None = None
        self.messages = 0
        self._codec = codec
        self.use(transport)

    def use(self, transport: BaseTransport) -> None:
        """Another transport carries the session: TLS has begun."""
        tls = transport.get_extra_info("ssl_object")
        self.tls: str | None = tls.version() if tls is not None else None

    @property
    def helo(self) -> str | None:
        return self._codec.helo

    @property
    def secure(self) -> bool:
        return self._codec.secure

    @property
    def user(self) -> str | None:
        return self._codec.user

    def next_message_id(self) -> str:
        self.messages += 1
        return f"{self.id}.{self.messages}"


@dataclass(slots=True)
class Message:
    """An accepted message: `content` as it came, CRLF and all, dots undone; the rest as in envelopes.jsonl."""

    id: str
    sender: str
    recipients: list[str]
    parameters: Parameters
    remote_address: str
    remote_port: int
    proxy_address: str | None
    helo: str | None
    tls: str | None
    auth: str | None
    received: datetime
    content: bytes = b""


def message_of(session: Session, envelope: Envelope) -> Message:
    """The record of the message that is about to come, without its content."""
    return Message(
        id=session.next_message_id(),
        sender=envelope.sender,
        recipients=envelope.recipients,
        parameters=envelope.parameters,
        remote_address=session.remote_address,
        remote_port=session.remote_port,
        proxy_address=session.proxy_address,
        helo=session.helo,
        tls=session.tls,
        auth=session.user,
        received=datetime.now(UTC),
    )


def address_of(transport: BaseTransport, which: str) -> tuple[str, int]:
    """ "peername" or "sockname" of a TCP transport; ("", 0) once the peer has gone."""
    name: Any = transport.get_extra_info(which)
    return (name[0], name[1]) if name else ("", 0)

"""What a hook, a store and a test see of a client: its connection, its envelope, the message it left."""

from __future__ import annotations

from asyncio import BaseTransport
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bulkmail.wire.proxy_info import End, ProxyInfo
from bulkmail.wire.server import ServerCodec

if TYPE_CHECKING:
    from email.message import EmailMessage

Parameters = dict[str, str | None]


@dataclass(slots=True)
class Envelope:
    """MAIL and the RCPTs that were accepted. Parameters are upper-case names; None for one without value."""

    sender: str
    parameters: Parameters = field(default_factory=dict)
    recipients: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Ends:
    """Both ends of a connection, the real client's if a proxy told.

    remote, local   the client's, and where it connected to
    proxy           the proxy's own end, if a header was read
    header          that header
    """

    remote: End
    local: End
    proxy: End | None = None
    header: ProxyInfo | None = None

    @property
    def known(self) -> bool:
        """False where a proxy would not say who the client is: `remote` is the proxy then."""
        return self.header is None or self.header.local or self.header.source is not None


class Session:
    """One connection.

    id                                 in the greeting and in every log record (`cid`)
    local_address, local_port          ours; behind a proxy where the client connected to
    remote_address, remote_port        the client's, behind a proxy too (the proxy's, if its header is UNKNOWN or LOCAL)
    proxy_address, proxy_port          the proxy's, if a PROXY header was read; None otherwise
    proxy                              that header, a `ProxyInfo` (also what the proxy says of TLS ...), or None
    client_hostname                    its host's name, with `reverse_lookup`; None without, and where DNS has none
    helo, user                         what it said; None before
    secure, tls                        whether TLS is on, and its version ("TLSv1.3")
    envelope                           of the open transaction, or None
    """

    proxy_address: str | None = None
    proxy_port: int | None = None
    proxy: ProxyInfo | None = None
    client_hostname: str | None = None

    def __init__(self, ident: str, transport: BaseTransport, codec: ServerCodec, ends: Ends | None = None) -> None:
        self.id = ident
        ends = ends or ends_of(transport)
        self.local_address, self.local_port = ends.local
        self.remote_address, self.remote_port = ends.remote
        if ends.proxy is not None:
            self.proxy_address, self.proxy_port = ends.proxy
            self.proxy = ends.header
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
    """An accepted message: `content` as it came, CRLF and all, dots undone; the rest as in envelopes.jsonl.

    `message["Subject"]`, `text`, `html` and `email` read the content, whatever it is, when they are first asked.
    """

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
    _email: EmailMessage | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def email(self) -> EmailMessage:
        """The content as the standard library parses it (`email.policy.default`)."""
        if self._email is None:
            from email import message_from_bytes, policy

            self._email = message_from_bytes(self.content, policy=policy.default)
        return self._email

    def __getitem__(self, header: str) -> str | None:
        """A header field, decoded; the first of several, None where there is none."""
        value = self.email[header]
        return None if value is None else str(value)

    def __contains__(self, header: str) -> bool:
        return header in self.email

    @property
    def text(self) -> str:
        """The text part, with LF line ends; "" without one."""
        return self._part("plain")

    @property
    def html(self) -> str:
        """The HTML part, with LF line ends; "" without one."""
        return self._part("html")

    def _part(self, subtype: str) -> str:
        part = self.email.get_body((subtype,))
        if part is None:
            return ""
        try:
            text: str = part.get_content()
        except LookupError:  # a charset that Python does not know
            text = part.get_payload(decode=True).decode("utf-8", "replace")  # type: ignore[union-attr]
        return text.replace("\r\n", "\n")


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


def ends_of(transport: BaseTransport) -> Ends:
    return Ends(address_of(transport, "peername"), address_of(transport, "sockname"))


def address_of(transport: BaseTransport, which: str) -> tuple[str, int]:
    """ "peername" or "sockname" of a TCP transport; ("", 0) once the peer has gone."""
    name: Any = transport.get_extra_info(which)
    return end_of(name) if name else ("", 0)


def end_of(name: Any) -> End:
    """The address and port of a socket's name; IPv6's has more to it."""
    return name[0], name[1]

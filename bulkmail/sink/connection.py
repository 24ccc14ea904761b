"""The asyncio face of wire.server: one connection without hooks. Nothing here awaits, and nothing is made per message
unless messages are kept or stored."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bulkmail.sink.refuse import Refuse
from bulkmail.sink.session import Envelope, Session, address_of, message_of
from bulkmail.wire.server import ServerCodec

if TYPE_CHECKING:
    from bulkmail.sink.server import Server
    from bulkmail.sink.store import Incoming
    from bulkmail.wire.server import Event

log = logging.getLogger("bulkmail.sink")

TLS_SECONDS = 30.0  # for a handshake; the rest of a client's time is that of `watch`
# Server.sweep looks at every connection so often. Twenty thousand take it some 10 ms.
SWEEP_SECONDS = 30.0
# For a command, from the reply before it on: RFC 5321 section 4.5.3.2.7 asks for five minutes at least. The same for each
# LEAST_BYTES of content: 500 bytes a second, as in Postfix (smtpd_min_data_rate). A byte now and then buys no time.
PATIENCE_SECONDS = 300.0
LEAST_BYTES = 150_000


class Connection(asyncio.Protocol):
    """One client. `server` has the settings, the store and the set of connections."""

    transport: Any  # asyncio and uvloop share no base class of what start_tls takes and gives
    codec: ServerCodec
    _parting = False  # was closed, and has not gone, at the last sweep
    _session: Session | None = None
    _incoming: Incoming | None = None
    _handshake: asyncio.Task[None] | None = None
    _early: list[bytes] | None = None  # came through TLS before we heard that the handshake is done

    def __init__(self, server: Server) -> None:
        self.server = server

    # --- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self.server
        self.transport = transport
        self.codec = ServerCodec(
            server.settings,
            server.wire_counts,
            secure=server.options.tls_implicit,
            local=server.offers_auth and is_loopback(transport),
        )
        self.ident = server.next_ident()
        if server.admit(self):
            self.welcome()
        else:
            self.codec.refuse(421, b"4.3.2", b"Too many connections")
            self.flush()

    def data_received(self, data: bytes) -> None:
        if self._early is not None:
            self._early.append(data)
            return
        events = self.codec.feed(data)
        while events:
            events = self.handle(events)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop_message()
        self.server.forget(self)

    def pause_writing(self) -> None:
        # A client that sends and does not read gets no more replies made for it.
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._handshake is None:  # which must see all that comes
            self.transport.resume_reading()

    # --- what the server calls

    def welcome(self) -> None:
        self.codec.start(self.ident)
        self.flush()

    def hang_up(self, enhanced: bytes, text: bytes) -> None:
        """421 and the end. In a TLS handshake nothing can be said."""
        if self._handshake is not None:
            self.transport.abort()
            return
        self.codec.hang_up(enhanced, text)
        self.flush()

    @property
    def thinking(self) -> bool:
        """Whether the client waits for us, and so cannot go on."""
        return self.codec.asking != 0

    def watch(self) -> None:
        """Called every SWEEP_SECONDS: hang up on a client that makes no headway, cut off one that reads no goodbye."""
        if self.codec.closed:
            if self._parting:
                self.transport.abort()
            self._parting = True
        elif self._handshake is not None or self.thinking:
            self.codec.in_time()
        elif self.codec.late(int(PATIENCE_SECONDS / SWEEP_SECONDS), LEAST_BYTES):
            self.hang_up(b"4.4.2", b"You take too long")

    # --- events

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session = Session(self.ident, self.transport, self.codec)
        return self._session

    def flush(self) -> None:
        out = self.codec.output()
        if out:
            self.transport.write(out)
        if self.codec.closed:
            self.transport.close()

    def handle(self, events: Sequence[Event]) -> Sequence[Event]:
        """Take what happened; the events that follow once a question was answered."""
        for event in events:
            self.take(event)
        if not self.codec.asking:
            return ()
        try:
            return self.codec.accept(self.store_message())
        except Refuse as no:
            return self.codec.refuse(no.code, no.enhanced.encode(), no.text.encode())

    def take(self, event: Event) -> None:
        kind = event[0]
        if kind == "content":
            if self._incoming is not None:
                self._incoming.write(event[1])
        elif kind == "mail":
            self.session.envelope = Envelope(event[1], event[2])
        elif kind == "rcpt":
            if self.session.envelope is not None:
                self.session.envelope.recipients.append(event[1])
        elif kind == "data":
            self.begin_message()
        elif kind in ("abort", "reset"):
            self.drop_message()
        elif kind == "starttls":
            self.start_tls()

    def begin_message(self) -> None:
        store, envelope = self.server.store, self.session.envelope
        if store is not None and envelope is not None:
            self._incoming = store.begin(message_of(self.session, envelope))

    def store_message(self) -> bytes | None:
        """The text of the reply to a message that is kept now; Refuse if it cannot be."""
        incoming, self._incoming = self._incoming, None
        self.session.envelope = None
        if incoming is None:
            return None
        try:
            incoming.commit()
        except Refuse as no:
            log.error("message not stored: %s", no.__cause__ or no, extra={"cid": self.ident})
            raise
        return b"Ok: queued as %s.%d" % (self.ident.encode(), self.session.messages)

    def drop_message(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.abandon()
        if self._session is not None:
            self._session.envelope = None

    # --- STARTTLS

    def start_tls(self) -> None:
        # Reading stops before the client hears that it may begin, so that what comes from now on is TLS's alone.
        self.transport.pause_reading()
        self.flush()
        self._handshake = asyncio.get_running_loop().create_task(self.shake_hands())

    async def shake_hands(self) -> None:
        early: list[bytes] = []
        self._early = early  # from here on TLS stands between the socket and data_received
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self.transport,
                self,
                self.server.tls,  # type: ignore[arg-type]  # offered only where there is one
                server_side=True,
                ssl_handshake_timeout=TLS_SECONDS,
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            log.warning("TLS handshake failed: %s", error, extra={"cid": self.ident})
            self.transport.abort()
            self.connection_lost(error)  # the loop does not tell, where the transport was TLS's already
            return
        finally:
            self._handshake = self._early = None
        if transport is None or transport.is_closing():
            self.connection_lost(None)  # lost in the handshake: asyncio says None and calls nobody
            return
        self.transport = transport
        self.codec.secured()
        if self.codec.dropped:
            log.warning("dropped %d bytes sent ahead of TLS", self.codec.dropped, extra={"cid": self.ident})
        if self._session is not None:
            self._session.use(transport)
        for data in early:
            self.data_received(data)


def is_loopback(transport: asyncio.BaseTransport) -> bool:
    try:
        address = ipaddress.ip_address(address_of(transport, "peername")[0].partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback

"""The asyncio face of wire.server: one connection without hooks. Nothing here awaits, and nothing is made per message
unless messages are kept or stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from bulkmail.sink.networks import is_loopback
from bulkmail.sink.refuse import Refuse
from bulkmail.sink.session import Ends, Envelope, Session, address_of, message_of
from bulkmail.sink.store import NotStored
from bulkmail.wire.server import ServerCodec

if TYPE_CHECKING:
    from bulkmail.sink.admission import Key
    from bulkmail.sink.records import Records
    from bulkmail.sink.server import Server
    from bulkmail.sink.store import Incoming
    from bulkmail.wire.server import Event
    from bulkmail.wire.server_settings import ServerCounts, ServerSettings

log = logging.getLogger("bulkmail.sink")

HUNG_UP = "the client closed the connection"  # the error of a client that ends a handshake has no text
TLS_SECONDS = 30.0  # for a handshake; the rest of a client's time is that of `watch`
# Server.sweep looks at every connection so often. Twenty thousand take it some 10 ms.
SWEEP_SECONDS = 30.0
# For a command, from the reply before it on: RFC 5321 section 4.5.3.2.7 asks for five minutes. The same for each
# LEAST_BYTES of content: 500 bytes a second, as in Postfix (smtpd_min_data_rate). A byte now and then buys no time.
PATIENCE_SECONDS = 300.0
LEAST_BYTES = 150_000
# A client that goes on sending when we close is answered by its own system with a reset, and may then never read the
# verdict on the message before. So it gets so long to see our end of the stream.
LINGER_SECONDS = 1.0


class Connection(asyncio.Protocol):
    """One client. `server` has the settings, the store and the set of connections.

    The loop makes it, and calls connection_made; or a gate does, with an id that it has used and ends that it knows.
    """

    transport: Any  # asyncio and uvloop share no base class of what start_tls takes and gives
    codec: ServerCodec
    place: Key | None = None  # what Admission counts it by
    _parting = False  # was closed, and has not gone, at the last sweep
    _choked = False  # the client does not read
    _session: Session | None = None
    _incoming: Incoming | None = None
    _handshake: asyncio.Task[None] | None = None
    _early: list[bytes] | None = None  # came through TLS before we heard that the handshake is done
    _storing = False  # the store has a message, and has not said yet whether it keeps it
    _lost = False
    _late = False  # leaves after a message that was under way
    _lingering: asyncio.TimerHandle | None = None
    _records: Records | None = None  # where nobody listens to the log there are none

    def __init__(self, server: Server, ident: str = "", ends: Ends | None = None) -> None:
        self.server = server
        self.ident = ident or server.next_ident()
        self.ends = ends

    # --- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.codec = self.make_codec()
        if log.isEnabledFor(logging.INFO):
            self.begin_records()
        no = self.server.admit(self)
        if no is None:
            self.welcome()
        else:
            self.refuse(no)
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
        self._lost = True
        if self._lingering is not None:
            self._lingering.cancel()
        self.drop_message()
        self.server.forget(self)

    def pause_writing(self) -> None:
        # A client that sends and does not read gets no more replies made for it.
        self._choked = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._choked = False
        if self._handshake is None and not self._storing:  # a handshake must see all that comes
            self.transport.resume_reading()

    # --- what the server calls

    def make_codec(self) -> ServerCodec:
        server = self.server
        return self.codec_of(server.settings, server.wire_counts, server.offers_auth)

    def codec_of(self, settings: ServerSettings, counts: ServerCounts, offers_auth: bool) -> ServerCodec:
        local = offers_auth and self.is_local()
        return ServerCodec(settings, counts, secure=self.server.options.tls_implicit, local=local)

    def is_local(self) -> bool:
        """Whether the client is on this machine, as far as is known."""
        if self.ends is not None:
            return self.ends.known and is_loopback(self.ends.remote[0])
        return is_loopback(address_of(self.transport, "peername")[0])

    def note(self, level: int, text: str, *values: object, error: BaseException | None = None) -> None:
        """Each log record about a connection goes through here; `error` adds its traceback."""
        log.log(level, text, *values, exc_info=error, extra={"cid": self.ident})

    def begin_records(self) -> None:
        from bulkmail.sink.records import Records

        self._records = Records(self)

    def tell(self, event: Event) -> None:
        if self._records is not None:
            self._records.event(event)

    def end_records(self) -> None:
        records, self._records = self._records, None
        if records is not None:
            records.end()

    def welcome(self) -> None:
        self.codec.start(self.ident)
        self.flush()

    def hang_up(self, enhanced: bytes, text: bytes) -> None:
        """421 and the end. In a TLS handshake nothing can be said; a message that is being stored is answered first."""
        if self._handshake is not None:
            self.transport.abort()
        elif self._storing:
            self._late = True
            self.codec.leave(enhanced, text)
        else:
            self._late = False
            self.codec.hang_up(enhanced, text)
            self.flush()

    def abort(self) -> None:
        self.transport.abort()

    def leave(self, enhanced: bytes, text: bytes) -> None:
        """hang_up(), after the message that is under way."""
        if self._handshake is None and self.codec.in_transaction:
            self._late = True
            self.codec.leave(enhanced, text)
        else:
            self.hang_up(enhanced, text)

    @property
    def closed(self) -> bool:
        """Whether the last word has been said, at least by us."""
        return self.codec.closed

    @property
    def thinking(self) -> bool:
        """Whether the client waits for us, and so cannot go on."""
        return self.codec.asking != 0

    def watch(self) -> None:
        """Called every SWEEP_SECONDS: hang up on a client that makes no headway, cut off one that reads no goodbye."""
        if self._handshake is not None:
            return  # it has a deadline of its own, and may come before there is a codec
        if self.codec.closed:
            if self._parting:
                self.transport.abort()
            self._parting = True
        elif self.thinking:
            self.codec.in_time()
        elif self.codec.late(int(PATIENCE_SECONDS / SWEEP_SECONDS), LEAST_BYTES):
            self.hang_up(b"4.4.2", b"You take too long")

    # --- events

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session = Session(self.ident, self.transport, self.codec, self.ends)
        return self._session

    def output(self) -> bytes:
        """What the codec has to say to the client, and whoever listens to the server has heard."""
        out = self.codec.output()
        if self.server.listener is not None:
            self.server.listener(out)
        if self._records is not None:
            self._records.said(out)
        return out

    def flush(self) -> None:
        out = self.output()
        if out:
            self.transport.write(out)
        if self.codec.closed:
            self.part()

    def part(self) -> None:
        if not self._late or not self.transport.can_write_eof():  # TLS ends both ways at once
            self.close_transport()
        elif self._lingering is None and not self.transport.is_closing():
            self.linger()

    def close_transport(self) -> None:
        # Once only: after a second close() a TLS transport of CPython 3.11's does nothing at abort().
        if not self.transport.is_closing():
            self.transport.close()

    def linger(self) -> None:
        try:
            self.transport.write_eof()
        except OSError:  # the client is the quicker one
            self.transport.close()
            return
        self.transport.resume_reading()
        self._lingering = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.close)

    def handle(self, events: Sequence[Event]) -> Sequence[Event]:
        """Take what happened; the events that follow once a question was answered."""
        for event in events:
            self.take(event)
        if not self.codec.asking:
            return ()
        try:
            later = self.store_message()
        except Refuse as no:
            return self.refuse(no)
        if later is None:
            return self.codec.accept(self.taken())
        self._storing = True  # before the task begins, too
        self.transport.pause_reading()
        self.server.spawn(self.settle(later), self.ident)
        return ()

    async def settle(self, later: Awaitable[None]) -> None:
        """A store's verdict that takes its time. It is asked for even if the client goes away meanwhile."""
        try:
            await self.await_stored(later)
            events = self.codec.accept(self.taken())
        except Refuse as no:
            events = self.refuse(no)
        except asyncio.CancelledError:  # by stop(), or what the store waited for was: nothing is known
            self.transport.abort()
            raise
        while events and not self._lost:
            events = self.handle(events)
        if not self._lost:
            self.flush()
            if not self._choked:  # else once it has read
                self.resume_writing()

    async def await_stored(self, later: Awaitable[None]) -> None:
        """Refuse if the message is not kept."""
        self._storing = True
        try:
            await later
        except Refuse as no:
            self.note_failure(no)
            raise
        except Exception as error:
            failed = NotStored(451, "Local error in processing", "4.3.0")
            failed.__cause__ = error
            self.note_failure(failed)
            raise failed from error
        finally:
            self._storing = False

    def refuse(self, no: Refuse) -> Sequence[Event]:
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
        self.tell(event)

    def begin_message(self) -> None:
        store, envelope = self.server.store, self.session.envelope
        if store is not None and envelope is not None:
            self._incoming = store.begin(message_of(self.session, envelope))

    def store_message(self) -> Awaitable[None] | None:
        """Give the message to the store. None: it is kept; else what to wait for. Refuse if it is not kept."""
        incoming, self._incoming = self._incoming, None
        self.session.envelope = None
        if incoming is None:
            return None
        try:
            return incoming.commit()
        except Refuse as no:
            self.note_failure(no)
            raise

    def note_failure(self, no: Refuse) -> None:
        if isinstance(no, NotStored):  # and not a refusal of the user's own
            why = no.__cause__
            trace = None if isinstance(why, OSError) else why
            self.note(logging.ERROR, "message not stored: %s", why or no, error=trace)

    def taken(self) -> bytes | None:
        """The text of the reply to a message that is kept."""
        if self.server.store is None:
            return None
        return b"Ok: queued as %s.%d" % (self.ident.encode(), self.session.messages)

    def drop_message(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.abandon()
        if self._session is not None:
            self._session.envelope = None

    # --- TLS

    def start_tls(self) -> None:
        # Reading stops before the client hears that it may begin, so that what comes from now on is TLS's alone.
        self.transport.pause_reading()
        self.flush()
        self._handshake = asyncio.get_running_loop().create_task(self.secure())

    async def secure(self) -> None:
        """STARTTLS, from the 220 on."""
        early = await self.shake_hands()
        if early is None:
            return
        self.codec.secured()
        if self.codec.dropped:
            self.note(logging.WARNING, "dropped %d bytes sent ahead of TLS", self.codec.dropped)
        if self._session is not None:
            self._session.use(self.transport)
        for data in early:
            self.data_received(data)

    async def shake_hands(self) -> list[bytes] | None:
        """What came through TLS by the time we heard that it is on. None: it failed; the connection is forgotten."""
        early: list[bytes] = []
        self._early = early  # from here on TLS stands between the socket and data_received
        self._choked = False  # TLS is told now when the client reads on
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self.transport,
                self,
                self.server.tls,  # type: ignore[arg-type]  # offered only where there is one
                server_side=True,
                ssl_handshake_timeout=TLS_SECONDS,
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            self.note(logging.WARNING, "TLS handshake failed: %s", str(error) or HUNG_UP)
            self.transport.abort()
            self.connection_lost(error)  # the loop does not tell, where the transport was TLS's already
            return None
        finally:
            self._handshake = self._early = None
        if transport is None or transport.is_closing():
            self.connection_lost(None)  # lost in the handshake: asyncio says None and calls nobody
            return None
        self.transport = transport
        return early


class UnseenConnection(Connection):
    """Of a client that is ignored: it is served, and nobody hears of it."""

    def make_codec(self) -> ServerCodec:
        server = self.server
        return self.codec_of(server.unseen_settings, server.unseen_counts, server.options.auth is not None)

    def note(self, level: int, text: str, *values: object, error: BaseException | None = None) -> None:
        pass

    def begin_records(self) -> None:
        pass

"""A connection that suffers the faults of faults.py. A fault comes before the hook of its phase."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, cast

from bulkmail.errors import MessageRefused
from bulkmail.sink.connection import Connection
from bulkmail.sink.faults import Addresses, Fault
from bulkmail.sink.hooked import HookedConnection
from bulkmail.sink.refuse import Refuse
from bulkmail.wire.server_settings import ASK_END, PAUSED

if TYPE_CHECKING:
    from bulkmail.wire.server import Event

# What a client gets to close its side after "drop", before it is reset.
DROP_SECONDS = 5.0
# A drip faster than this is said in larger pieces.
DRIP_SECONDS = 0.01
# SO_LINGER, on and 0 seconds: close() is a RST then.
LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class Over(Exception):
    """The connection has nothing more to say; its task ends."""


class WordForWord(Refuse):
    """A reply as the rule has it: with an enhanced code or without."""

    def __init__(self, code: int, text: str) -> None:
        Exception.__init__(self, f"{code} {text}")
        self.code, self.text, self.enhanced = code, text, ""


class FaultyConnection(HookedConnection):
    _taken_over = False
    _left_over: Sequence[Event] = ()  # by the plain connection that this was
    _suffering = False
    _deaf = False  # whatever comes is thrown away: only its end counts
    _dripping = False
    _drip: tuple[float, float] | None = None

    def _equip(self) -> None:
        super()._equip()
        self._over = asyncio.Event()

    @staticmethod
    def take_over(connection: Connection, *, greeted: bool = True) -> None:
        """Go on with a plain connection, wherever it stands: it has the same fields. Others are left as they are."""
        if type(connection) is not Connection:
            return
        connection.__class__ = FaultyConnection
        faulty = cast("FaultyConnection", connection)
        faulty._equip()
        if faulty._handshake is None:
            faulty.transport.set_protocol(faulty)  # uvloop keeps the methods of the one it knows
        if greeted:
            faulty._taken_over = True
            faulty.welcome()

    # --- what the loop and the server call

    def data_received(self, data: bytes) -> None:
        if not self._deaf:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over.set()
        super().connection_lost(exc)

    def hang_up(self, enhanced: bytes, text: bytes) -> None:
        if self._suffering and not self.server.stopping:
            return  # the client waits for us
        if self._deaf:
            self.transport.abort()
        else:
            super().hang_up(enhanced, text)
            self._over.set()

    def leave(self, enhanced: bytes, text: bytes) -> None:
        if self._deaf:
            self.transport.abort()  # no message will come of it
        else:
            super().leave(enhanced, text)

    def flush(self) -> None:
        if not self._dripping:
            super().flush()

    def handle(self, events: Sequence[Event]) -> Sequence[Event]:
        # A plain connection was waiting for its store when it was taken over; this is how it goes on.
        self._left_over = events
        self._wake.set()
        return ()

    def watch(self) -> None:
        if not self._suffering:
            super().watch()

    # --- the task

    async def run(self) -> None:
        with contextlib.suppress(Over):
            await super().run()

    async def greet(self) -> None:
        if self._taken_over:
            await self.finish_plain()
            return
        try:
            await self.strike("connect")
            await self.call("on_connect", self.session)
            await self.strike("greeting")
        except Refuse as no:
            self.refuse(no)
        else:
            self.codec.start(self.ident)
        if self._drip is not None:
            await self.trickle(())
        self.flush()

    async def finish_plain(self) -> None:
        """What the plain connection that this was had begun."""
        if self._handshake is not None:
            await asyncio.wait([self._handshake])
        while self._storing and not self._lost:
            self._wake.clear()
            await self._wake.wait()
        await self.work(self._left_over)

    async def react(self, events: Sequence[Event]) -> Sequence[Event]:
        if self.codec.asking == ASK_END and self.server.settings.lmtp:
            return await self.divide(events)
        following = await super().react(events)
        # Another question may come before the answer: a login's, a hook's.
        if self._drip is None or self.codec.asking not in (0, PAUSED):
            return following
        return await self.trickle(following)

    async def decide(self, event: Event) -> bytes | None:
        kind = event[0]
        if kind == "ask":
            await self.strike(event[1], self.addresses_of(event))
            return None
        if kind == "end":
            if not self.server.settings.lmtp:
                await self.strike_message()
        elif kind != "auth":
            await self.strike(kind, (event[1],))
        return await super().decide(event)

    def addresses_of(self, event: Event) -> Addresses:
        """Of a question before DATA or a login."""
        envelope = self.session.envelope
        if event[1] == "auth":
            return (event[2],)
        return tuple(envelope.recipients) if envelope is not None else ()

    async def strike_message(self) -> None:
        envelope = self.session.envelope
        try:
            await self.strike("body", tuple(envelope.recipients) if envelope is not None else ())
        except Refuse:
            await self.refuse_message()
            raise

    async def refuse_message(self) -> None:
        self._end_stream(MessageRefused("a fault refused the message"))
        await self.read_result(quiet=True)
        self.drop_message()

    # --- LMTP: a verdict for each recipient, and each of them an event of "body"

    async def divide(self, events: Sequence[Event]) -> Sequence[Event]:
        *plain, last = events
        for event in plain:
            await self.absorb(event)
        envelope = self.session.envelope
        recipients = envelope.recipients if envelope is not None else []
        faults = [self.draw("body", (recipient,)) for recipient in recipients]
        if not any(faults):
            return await super().react([last])
        self.tell(last)
        refusals = refusals_of(faults)
        text = await self.take_for_some(recipients, refusals)
        self.codec.pause()
        following = self.codec.settle(refusals, text)
        await self.say_each(faults, self.output().splitlines(keepends=True))
        return [*following, *self.codec.resume()]

    async def take_for_some(self, recipients: list[str], refusals: list[bytes | None]) -> bytes | None:
        """The message is that of those who are not refused; what became of it, in `refusals` or as the reply's text."""
        recipients[:] = [recipient for recipient, no in zip(recipients, refusals, strict=True) if no is None]
        if not recipients:
            await self.refuse_message()
            return None
        try:
            return await self.finish_message()
        except Refuse as no:
            line = self.server.settings.line(b"%d %s %s" % (no.code, no.enhanced.encode(), no.text.encode()))
            refusals[:] = [line.rstrip() if refusal is None else refusal for refusal in refusals]
            return None

    async def say_each(self, faults: list[Fault | None], lines: list[bytes]) -> None:
        for fault, line in zip_longest(faults, lines):
            if fault is not None:
                await self.suffer(replace(fault, refusal=None, drip=None))
            await self.say(line, fault.drip if fault is not None else None)
            if line.startswith(b"421"):
                self.close_transport()
                raise Over

    # --- what faults do

    async def strike(self, phase: str, addresses: Addresses = ()) -> None:
        """The next event of `phase`: returns when things may go on as usual. Refuse, or Over."""
        fault = self.draw(phase, addresses)
        if fault is not None:
            await self.suffer(fault)

    def draw(self, phase: str, addresses: Addresses) -> Fault | None:
        fault = self.server.faults.strike(phase, addresses)
        if fault is not None:
            self.note(logging.INFO, "fault at %s: %s", phase, fault)
        return fault

    async def suffer(self, fault: Fault) -> None:
        self.flush()  # what was asked before is answered before
        if fault.delay:
            await self.wait(fault.delay)
        if fault.end is not None:
            await self.end(fault.end)
        if fault.drip is not None:
            self._drip = fault.drip
            self.codec.pause()
        if fault.refusal is not None:
            raise WordForWord(*fault.refusal)

    async def wait(self, seconds: float | None) -> None:
        """Over, if the connection ends before; None: until it does."""
        self._suffering = True
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return
        finally:
            self._suffering = False
        raise Over

    async def end(self, how: str) -> None:
        await self.written()
        self._deaf = True
        self._inbox.clear()
        if how == "reset":
            reset(self.transport)
        elif how == "drop":
            shut_down(self.transport)
        self.transport.resume_reading()
        await self.wait(None if how == "hang" else DROP_SECONDS)
        self.transport.abort()
        raise Over

    async def written(self) -> None:
        """Returns when what was said has left, as far as the client reads."""
        while self.transport.get_write_buffer_size() and not self._choked:
            await self.wait(DRIP_SECONDS)

    async def trickle(self, events: Sequence[Event]) -> Sequence[Event]:
        """Say slowly what the codec has to say, then let it go on: what comes of `events`, and what follows."""
        drip, self._drip = self._drip, None
        await self.say(self.output(), drip)
        for event in events:
            await self.absorb(event)
        return self.codec.resume()

    async def say(self, out: bytes, drip: tuple[float, float] | None) -> None:
        count, seconds = drip or (math.inf, 1.0)
        size = max(1, math.ceil(min(count / seconds * DRIP_SECONDS, len(out))))
        self._dripping = True
        for at in range(0, len(out), size):
            if at:
                await self.wait(size * seconds / count)
            self.transport.write(out[at : at + size])
        self._dripping = False


def refusals_of(faults: list[Fault | None]) -> list[bytes | None]:
    """As ServerCodec.settle() takes them: behind the end of a connection nothing is said."""
    refusals: list[bytes | None] = []
    for fault in faults:
        if (fault is not None and fault.end is not None) or refusals[-1:] == [b""]:
            refusals.append(b"")
        elif fault is not None and fault.refusal is not None:
            refusals.append(b"%d %s" % (fault.refusal[0], fault.refusal[1].encode()))
        else:
            refusals.append(None)
    return refusals


# --- beneath TLS, where there is any


def shut_down(transport: asyncio.BaseTransport) -> None:
    """A FIN, and no word of TLS's."""
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # the client was faster
        if os.name == "nt":
            sock.shutdown(socket.SHUT_WR)
            return
        with socket.socket(fileno=os.dup(sock.fileno())) as same:  # uvloop's has no shutdown()
            same.shutdown(socket.SHUT_WR)


def reset(transport: asyncio.Transport) -> None:
    """A RST."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    transport.abort()

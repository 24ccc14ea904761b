"""A connection whose hooks decide. One task drives it, so that hooks of a connection run one after the other; while
one thinks, nothing is read. Only `on_data` runs beside the reading, to take a message as it comes."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bulkmail.errors import ConnectionLost, MessageRefused
from bulkmail.sink.connection import Connection
from bulkmail.sink.hooks import checked, checked_text
from bulkmail.sink.refuse import Refuse, reply_text
from bulkmail.sink.stream import Stream
from bulkmail.wire.server_settings import ASK_AUTH, ASK_END, ASK_MAIL, ASK_RCPT

if TYPE_CHECKING:
    from bulkmail.sink.server import Server
    from bulkmail.sink.session import Ends
    from bulkmail.wire.server import Event

# A hook that is not async and takes as long is told of: nobody else is served meanwhile.
SLOW_HOOK_SECONDS = 1.0
QUESTIONS = {"on_auth": ASK_AUTH, "on_mail": ASK_MAIL, "on_rcpt": ASK_RCPT, "on_data": ASK_END}


def questions(hooks: object) -> int:
    """What the codec has to ask, for these hooks."""
    return sum(flag for name, flag in QUESTIONS.items() if hasattr(hooks, name))


class HookedConnection(Connection):
    def __init__(self, server: Server, ident: str = "", ends: Ends | None = None) -> None:
        super().__init__(server, ident, ends)
        self._equip()

    def _equip(self) -> None:
        self._inbox: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._idle = False
        self._ended = True  # there is no task: one that is not let in never has any
        self._stream: Stream | None = None
        self._reader: asyncio.Task[Any] | None = None
        self._flushing: asyncio.Handle | None = None

    # --- what the loop calls

    def welcome(self) -> None:
        self.session  # noqa: B018  # its addresses cannot be asked for once the client has gone
        self._ended = False
        self.server.spawn(self.run(), self.ident)

    def data_received(self, data: bytes) -> None:
        if self._early is not None:
            self._early.append(data)
            return
        if self.codec.closed:
            return
        self._inbox.append(data)
        self.transport.pause_reading()
        self._wake.set()

    def resume_writing(self) -> None:
        self._choked = False
        self._wake.set()  # run() reads on when it has nothing left to do

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._lingering is not None:
            self._lingering.cancel()
        self._wake.set()
        if self._stream is not None:
            self._stream.end(ConnectionLost("the client went away before the message ended"))
        if self._ended:
            self.server.forget(self)

    @property
    def thinking(self) -> bool:
        return not self._idle

    def flush(self) -> None:
        if not self._lost:
            super().flush()

    # --- the task

    async def run(self) -> None:
        try:
            await self.look_up()
            await self.greet()
            while not self._lost and not self.codec.closed:
                if self._inbox:
                    await self.work(self.codec.feed(self._inbox.popleft()))
                else:
                    await self.more()
        finally:
            await self.close()

    async def look_up(self) -> None:
        if self.server.options.reverse_lookup and self.server.hooks is not None:
            from bulkmail.sink.hostnames import hostname_of

            self.session.client_hostname = await hostname_of(self.session.remote_address)

    async def greet(self) -> None:
        try:
            await self.call("on_connect", self.session)
        except Refuse as no:
            self.refuse(no)
        else:
            self.codec.start(self.ident)
        self.flush()

    async def more(self) -> None:
        if not self._choked:
            self.transport.resume_reading()
        self._wake.clear()
        self._idle = True
        await self._wake.wait()
        self._idle = False

    async def close(self) -> None:
        try:
            await self.stop_reader()
            await self.call("on_close", self.session)
        except Refuse:
            pass  # nobody is there to be refused
        finally:
            await self.see_off()

    async def stop_reader(self) -> None:
        try:
            if self._reader is not None:
                self._end_stream(ConnectionLost("the client went away before the message ended"))
                await asyncio.gather(self._reader, return_exceptions=True)
        finally:
            self.drop_message()

    async def see_off(self) -> None:
        try:
            while self._lingering is not None and not self._lost:
                self._wake.clear()
                await self._wake.wait()
        finally:  # cancelled or not
            self.close_transport()
            self._ended = True
            if self._lost:
                self.server.forget(self)  # else once it has read its last reply, or is taken not to

    async def work(self, events: Sequence[Event]) -> None:
        while events and not self._lost:
            events = await self.react(events)
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self.flush()

    def flush_if_we_wait(self) -> None:
        """Before an await: the replies so far are sent if that gives way to the loop, and else with those to come."""
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = None
        self.flush()

    async def react(self, events: Sequence[Event]) -> Sequence[Event]:
        *plain, last = events
        for event in plain:
            await self.absorb(event)
        if not self.codec.asking:
            await self.absorb(last)
            return ()
        if last[0] == "end":  # the rest is told once it is decided
            self.tell(last)
        try:
            text = await self.decide(last)
        except Refuse as no:
            return self.refuse(no)
        return self.codec.accept(text)

    async def absorb(self, event: Event) -> None:
        """What needs no decision."""
        kind = event[0]
        if kind == "starttls":
            await self.upgrade()
            return
        if kind in ("abort", "reset"):
            why = event[1] if kind == "abort" else "the client gave the message up before its last chunk"
            self._end_stream(MessageRefused(why))
            await self.read_result(quiet=True)
        self.take(event)
        if kind == "data":
            self.begin_stream()
        elif kind == "content" and self._stream is not None:
            self._stream.add(event[1])
            if self._reader is not None:
                self.flush_if_we_wait()
                await self._stream.drained()

    async def decide(self, event: Event) -> bytes | None:
        """A question's answer: the reply's text, or Refuse."""
        kind, session = event[0], self.session
        if kind == "mail":
            await self.call("on_mail", session, event[1], event[2])
            self.take(event)
        elif kind == "rcpt":
            await self.call("on_rcpt", session, event[1], event[2])
            self.take(event)
        elif kind == "auth":
            if await self.call("on_auth", session, *event[1:]) is False:
                raise Refuse(535, "Authentication credentials invalid", "5.7.8")
        else:
            return await self.finish_message()
        return None

    async def upgrade(self) -> None:
        self._inbox.clear()
        self.flush()
        self._handshake = asyncio.current_task()
        await self.secure()

    # --- messages

    def begin_stream(self) -> None:
        hook = getattr(self.server.hooks, "on_data", None)
        if hook is None:
            return
        stream = self._stream = Stream()
        if inspect.iscoroutinefunction(hook):
            self._reader = asyncio.get_running_loop().create_task(self.call("on_data", self.session, stream))
            self._reader.add_done_callback(lambda _: stream.ignore())

    def _end_stream(self, error: Exception | None = None) -> None:
        if self._stream is not None:
            self._stream.end(error)

    async def read_result(self, quiet: bool = False) -> Any:
        """What on_data returned; Refuse if it raised that. `quiet`: its word does not count any more."""
        stream, self._stream = self._stream, None
        reader, self._reader = self._reader, None
        if reader is not None:
            self.flush_if_we_wait()
            outcome = (await asyncio.gather(reader, return_exceptions=True))[0]
            if isinstance(outcome, BaseException) and not quiet:
                raise outcome
            return outcome
        if stream is not None and not quiet:
            return await self.call("on_data", self.session, stream)
        return None

    async def finish_message(self) -> bytes | None:
        self._end_stream()
        try:
            result = await self.read_result()
            text = checked_text(result)
            reply = None if text is None else reply_text(text).encode()
        except Refuse:
            self.drop_message()
            raise
        except (TypeError, ValueError) as error:
            self.drop_message()
            raise self.failed("on_data", error) from error
        if self.codec.closed:  # 421 was said meanwhile: the client takes it that we do not have the message
            self.drop_message()
            return None
        later = self.store_message()
        if later is not None:
            await self.await_stored(later)
        return reply or self.taken()

    # --- hooks

    async def call(self, name: str, *arguments: Any) -> Any:
        """The hook's result, None without one. Whatever else than Refuse it raises is logged and refuses with a 451."""
        hook = getattr(self.server.hooks, name, None)
        if hook is None:
            return None
        try:
            began = time.monotonic()
            result = hook(*arguments)
            took = time.monotonic() - began
            if took > SLOW_HOOK_SECONDS:
                self.note(logging.WARNING, "hook %s held up every client for %.1f s: make it async", name, took)
            if inspect.isawaitable(result):
                self.flush_if_we_wait()
                result = await result
            return checked(name, result)
        except Refuse:
            raise
        except (MessageRefused, ConnectionLost) as error:  # of the stream: the client's doing, not the hook's
            raise Refuse(451, "The message did not end well", "4.3.0") from error
        except Exception as error:
            raise self.failed(name, error) from error

    def failed(self, name: str, error: Exception) -> Refuse:
        self.note(logging.ERROR, "hook %s failed", name, error=error)
        return Refuse(451, "Local error in processing", "4.3.0")

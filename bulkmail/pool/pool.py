"""Many sessions to one relay: opened as work needs them, fed by the batch, replaced when they end.

The pool asks its `Source` for transactions when sessions have room, and gives finished ones back; it decides nothing
about retries. All of it runs on the event loop, once a turn (`Turn`), never once a message.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Protocol

from bulkmail.errors import BulkmailError, ConnectionLost, ProtocolError, TimedOut
from bulkmail.smtp.auth.tokens import token_source
from bulkmail.smtp.open import close_politely, open_session
from bulkmail.smtp.session import CLOSED_BY_US, Session, Turn
from bulkmail.url import Endpoint
from bulkmail.wire.reply import Reply
from bulkmail.wire.transaction import Transaction

LOGGER = logging.getLogger("bulkmail.smtp")
TURN_SECONDS = 0.005  # how long finished transactions may wait to be handed over in a batch: below any round trip
OPENING_AT_ONCE = 25  # handshakes under way at a time: a burst of hundreds looks like an attack to a relay
NO_LIMIT = 1 << 60
KEEP_ALIVE_SECONDS = 60.0  # an idle connection is used so often: servers wait five minutes (RFC 5321 section 4.5.3.2.7)


class Source(Protocol):
    """Where a pool's work comes from and where its outcome goes. None of these may await."""

    def backlog(self, pool: Pool) -> int:
        """How many transactions take() would give now (an estimate; decides whether to open connections)."""

    def take(self, pool: Pool, room: int) -> list[Transaction]:
        """Up to `room` transactions, to be sent now."""

    def settle(self, pool: Pool, finished: list[Transaction]) -> None:
        """These ended: DONE, NOT_TAKEN or IN_DOUBT."""

    def failed(self, pool: Pool, error: BulkmailError, failures: int) -> float | None:
        """A connection could not be opened or carried nothing, `failures` times in a row.

        Returns seconds before the next try; None: give up.
        """

    def event(self, pool: Pool, name: str, session: Session | None, error: BaseException | None) -> None:
        """ "connected", "disconnected" or "connect_failed"."""


def shares(rooms: list[int], count: int) -> list[int]:
    """`count` things (at most the sum of `rooms`) dealt out as evenly as the rooms allow."""
    dealt = [0] * len(rooms)
    for done, place in enumerate(sorted(range(len(rooms)), key=rooms.__getitem__)):
        dealt[place] = min(rooms[place], count // (len(rooms) - done))
        count -= dealt[place]
    return dealt


class Pool:
    """endpoint: the relay, with its options; limit: connections at most (default: the endpoint's `connections`).

    paced  the source grants by a rate: a session is then given one transaction at a time, and only when its MAIL would
           be written at once, so that what the limit granted is what the wire carries
    """

    def __init__(
        self, endpoint: Endpoint, source: Source, *, name: str = "", limit: int = 0, paced: bool = False
    ) -> None:
        self.endpoint, self.source = endpoint, source
        self.name = name or endpoint.host
        self.limit = limit or endpoint.options.connections
        self.paced = paced
        self.sessions: set[Session] = set()
        self.failures = 0  # connections in a row that could not be opened, or that ended before they carried anything
        self.last_error: BaseException | None = None
        self.dead: BaseException | None = None  # why it gave up
        self._loop = asyncio.get_running_loop()
        self._turn = Turn(self._loop, self.pump, TURN_SECONDS)
        self._idle: dict[Session, None] = {}  # have room and were given nothing
        self._asked: dict[Session, float] = {}  # when they were last sent a NOOP
        self._spent: set[Session] = set()  # have had all the messages that one connection may carry
        # begun since the last failure, which ends an era: once one of these has carried something, all is well
        self._newer: set[Session] = set()
        self._era = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._closing_tasks: set[asyncio.Task[None]] = set()
        # a session logged in since the last failure, or there is no login: only then are several opened at once
        self._proved = not endpoint.logs_in
        self.tokens = token_source(endpoint.options)  # fetched once for all sessions
        self._closing = False
        self._retry: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._quiet: asyncio.Future[None] | None = None

    # -- the turn

    def wake(self) -> None:
        """There is new work: look for it on the next turn."""
        self._turn.note(True)

    def pump(self) -> None:
        """Hand over what finished, fill what has room, open and close connections."""
        finished, ended = self._turn.take_done(), self._turn.take_ended()
        if finished:
            if self.failures and any(session.wire.completed for session in self._newer):
                self.failures = 0
            self.source.settle(self, finished)
        for session in ended:
            self._forget(session)
        for session in self._turn.take_hungry():
            if session in self.sessions:  # and not retired or ended since it asked
                self._idle[session] = None
        self._fill()
        self._open_more()
        if self._quiet is not None and not self._quiet.done() and not self.busy():
            self._quiet.set_result(None)

    def _forget(self, session: Session) -> None:
        self._idle.pop(session, None)
        self._asked.pop(session, None)
        self._spent.discard(session)
        self._newer.discard(session)
        if session in self.sessions:
            self.sessions.discard(session)
            self.source.event(self, "disconnected", session, session.error)
            if isinstance(session.error, BulkmailError) and str(session.error) != CLOSED_BY_US:
                self.last_error = session.error
                if self._simpler(session):
                    return
                if session.wire.completed == 0 and (session.wire.begun or self.source.backlog(self)):
                    # a relay that takes connections and drops them before the first message is as good as down
                    self._on_failure(session.error)

    def _simpler(self, session: Session) -> bool:
        """Whether it broke over what the server announced and cannot do; then further connections go without that."""
        wire = session.wire
        if wire.completed or not wire.begun or not isinstance(session.error, ProtocolError | TimedOut):
            return False
        if not (wire.chunking or wire.pipelining):
            return False
        options = self.endpoint.options
        if wire.chunking:
            options = dataclasses.replace(options, chunking=False)
        else:
            options = dataclasses.replace(options, pipelining=False)
        self.endpoint = dataclasses.replace(self.endpoint, options=options)
        LOGGER.warning(
            "%s announces %s and broke over it (%s): going on without",
            self.name,
            "CHUNKING" if wire.chunking else "PIPELINING",
            session.error,
            extra={"cid": session.label.id if session.label else None},
        )
        return True

    def _fill(self) -> None:
        """Share what the source has among the sessions with room."""
        if self._closing or not self._idle:
            return
        if self.paced:
            wanting, rooms = [s for s in self._idle if s.ready()], [1] * len(self._idle)
        else:
            wanting, rooms = list(self._idle), [s.room() for s in self._idle]
        room = sum(rooms[: len(wanting)])
        taken = self.source.take(self, room) if room else []
        place = 0
        for session, share in zip(wanting, shares(rooms[: len(wanting)], len(taken)), strict=True):
            if share:
                self._idle.pop(session)
                session.push(taken[place : place + share])
                place += share
                if session.left <= 0:
                    self._spent.add(session)

    # -- connections

    def _open_more(self) -> None:
        for session in [s for s in self._spent if s.wire.load() == 0]:
            self._retire(session)
        if self._closing or self.dead is not None or self._retry is not None or any(s.ready() for s in self._idle):
            return
        opening = len(self._opening)
        most = min(
            (OPENING_AT_ONCE if self._proved else 1) - opening,
            self.limit - len(self.sessions) - len(self._closing_tasks) - opening,
        )
        if most <= 0:
            return
        for _ in range(min(most, self.source.backlog(self) - opening)):
            self._opening.add(self._loop.create_task(self._open()))

    async def _open(self) -> None:
        era, failure = self._era, None
        try:
            session = await open_session(self.endpoint, self._turn, tokens=self.tokens)
        except Exception as error:
            failure = _as_ours(error)
        finally:
            self._opening -= {asyncio.current_task()}
        if failure is not None:
            self._on_failure(failure)
            return
        if era == self._era:
            self._proved = True
            self._newer.add(session)
        session.left = min(
            self.endpoint.options.messages_per_connection or NO_LIMIT, session.wire.offer.mail_max or NO_LIMIT
        )
        self.sessions.add(session)
        self._idle[session] = None
        self.source.event(self, "connected", session, None)
        if self._closing:
            self._retire(session)
        self._watch_idle()
        self._turn.note(True)

    def _on_failure(self, error: BulkmailError) -> None:
        self._proved = False
        self._newer.clear()
        self._era += 1
        self.last_error = error
        self.source.event(self, "connect_failed", None, error)
        if self._closing or self.dead is not None:
            return
        if self._retry is None:
            self.failures += 1
        elif self.connected:
            return  # several were opened together, and failed together: that is one failure
        pause = self.source.failed(self, error, self.failures)
        if pause is None:
            self.dead = error
        elif self._retry is None:
            self._retry = self._loop.call_later(pause, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._turn.note(True)

    def _retire(self, session: Session) -> None:
        """QUIT and forget; nothing is under way on it."""
        self._idle.pop(session, None)
        self._asked.pop(session, None)
        self._spent.discard(session)
        self._newer.discard(session)
        self.sessions.discard(session)
        self.source.event(self, "disconnected", session, None)
        task = self._loop.create_task(close_politely(session))
        self._closing_tasks.add(task)
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._closing_tasks.discard(task)
        self._turn.note(True)  # its place is free

    def _watch_idle(self) -> None:
        if self._sweep is None and self.sessions:
            every = min(1.0, self.endpoint.options.idle_timeout, KEEP_ALIVE_SECONDS)
            self._sweep = self._loop.call_later(every, self._close_idle)

    def _close_idle(self) -> None:
        self._sweep = None
        oldest = self._loop.time() - self.endpoint.options.idle_timeout
        for session in list(self._idle):
            if session.wire.load() or not session.idle_since:
                continue
            if session.idle_since < oldest:
                self._retire(session)
            elif self._loop.time() - max(session.idle_since, self._asked.get(session, 0)) > KEEP_ALIVE_SECONDS:
                self._keep_alive(session)
        self._watch_idle()

    def _keep_alive(self, session: Session) -> None:
        """NOOP: servers hang up on who is silent for long, and so do firewalls, without a word."""
        since, self._asked[session] = session.idle_since, self._loop.time()

        def answered(reply: asyncio.Future[Reply]) -> None:
            if not reply.cancelled() and reply.exception() is None and not session.wire.load():
                session.idle_since = since  # a NOOP is no work
                self._turn.note(True)

        session.call(b"NOOP\r\n", "NOOP").add_done_callback(answered)

    # -- the end

    @property
    def connected(self) -> bool:
        """Whether there is a session, or one on the way."""
        return bool(self.sessions or self._opening)

    def busy(self) -> int:
        """Transactions that the sessions hold."""
        return sum(session.wire.load() for session in self.sessions)

    def recall(self) -> list[Transaction]:
        """Take back every transaction of which nothing was written."""
        return [tx for session in self.sessions for tx in session.wire.take_back()]

    async def finished(self) -> None:
        """Return when nothing is under way on any session; their deadlines see to it that this is not never."""
        if self.busy():
            self._quiet = self._loop.create_future()
            await self._quiet

    async def close(self, *, abort: bool = False) -> None:
        """QUIT the idle sessions, hang up on the others (abort: on all), open no more. All that they had is settled."""
        self._closing = True
        for timer in (self._retry, self._sweep):
            if timer is not None:
                timer.cancel()
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for session in list(self.sessions):
            if abort or session.wire.load():
                session.abort(ConnectionLost(CLOSED_BY_US))
            else:
                self._retire(session)
        self.pump()
        await asyncio.gather(*self._closing_tasks, return_exceptions=True)


def _as_ours(error: Exception) -> BulkmailError:
    """A fault of our own must not leave the work waiting for a connection for ever: it ends the pool."""
    if isinstance(error, BulkmailError):
        return error
    wrapped = BulkmailError(f"{type(error).__name__}: {error}", permanent=True)
    wrapped.__cause__ = error
    return wrapped

"""The connections to one relay by one egress: opened, fed, replaced when they end; and how well that goes.

A lane that fails is out for a while, longer after each further failure (the source says how long), and comes back with
one connection: once that has carried something, all is well again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from typing import TYPE_CHECKING

from bulkmail.errors import AuthError, BulkmailError, ConnectionLost, ProtocolError, TimedOut
from bulkmail.pool.handing import Idle
from bulkmail.pool.limits import Limit
from bulkmail.smtp.open import close_politely, open_session
from bulkmail.smtp.session import CLOSED_BY_US, Session, Turn
from bulkmail.wire.reply import Reply
from bulkmail.wire.transaction import Transaction

if TYPE_CHECKING:
    from bulkmail.egress import Egress
    from bulkmail.pool.pool import Pool

LOGGER = logging.getLogger("bulkmail.smtp")
TURN_SECONDS = 0.005  # how long finished transactions may wait to be handed over in a batch: below any round trip
NO_LIMIT = 1 << 60
SLOW_OPENING = 3.0  # seconds: a connection that takes longer is not waited for where there are other egresses
KEEP_ALIVE_SECONDS = 60.0  # an idle connection is used so often: servers wait five minutes (RFC 5321 section 4.5.3.2.7)


class Lane:
    """pool: whose it is; egress: None for the relay as its options reach it.

    pace        the egress's own rate
    paced       the source grants by a rate: a session is then given one transaction at a time, and only when its MAIL
                would be written at once, so that what the limit granted is what the wire carries
    counted     in its place: the source hands out what its limits count when it is written (wire.limit); sessions hold
                what these allow to wait
    at_once     for the source while it is asked: of what it gives, so many, the first, are written at once
    under_way   transactions that its sessions hold, or that have ended and are not handed over yet
    failures    in a row: connections that could not be opened, or that ended before they carried anything
    last_error  of a connection, or None
    out_since   when the first of these failures was (the loop's time), or None
    """

    def __init__(self, pool: Pool, egress: Egress | None, paced: bool) -> None:
        self.pool, self.egress, self.paced = pool, egress, paced
        self.endpoint = egress.way_to(pool.endpoint) if egress is not None else pool.endpoint
        proxy = self.endpoint.options.proxy
        self.name = egress.name if egress is not None else str(proxy) if proxy else None
        self.weight = egress.weight if egress is not None else 1
        self.most = egress.max_connections if egress is not None else None  # connections, of the egress itself
        self.limit = pool.limit if self.most is None else min(pool.limit, self.most)
        rate = egress.rate if egress is not None else None
        self.pace = Limit(rate.per_second if rate else None)
        self.counted, self.at_once, self.under_way = False, 0, 0
        self.sessions: set[Session] = set()
        self.failures = 0
        self.last_error: BaseException | None = None
        self.out_since: float | None = None
        self.opening: dict[asyncio.Task[None], float] = {}  # when each was begun
        self.leaving = 0  # sessions that say goodbye: the relay still counts them
        self.idle = Idle()  # have room and were given nothing
        self.spent: set[Session] = set()  # have had all the messages that one connection may carry
        self.proved = False  # a connection was opened since the last failure
        self._loop = asyncio.get_running_loop()
        self._turn = Turn(self._loop, pool.take_turn, TURN_SECONDS)
        self._asked: dict[Session, float] = {}  # when they were last sent a NOOP
        # begun since the last failure, which ends an era: once one of these has carried something, all is well
        self._newer: set[Session] = set()
        self._era = 0
        self._failed_at = 0.0
        self._retry: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None

    # -- how it is

    @property
    def connections(self) -> int:
        """Open ones and those on the way."""
        return len(self.sessions) + len(self.opening)

    @property
    def pausing(self) -> bool:
        """Out: no connection is tried until the pause is over."""
        return self._retry is not None

    @property
    def out(self) -> bool:
        """It failed last, and has not carried anything since."""
        return self.failures > 0

    @property
    def state(self) -> str:
        """For people: "ok", "out" (with what is wrong in last_error) or "on trial"."""
        return "ok" if not self.failures else "out" if self.pausing else "on trial"

    def hoping(self) -> bool:
        """Whether it may still carry what waits: it has a session, or one on the way that is no trial after others."""
        late = self._failed_at if self.failures > 1 else math.inf
        return bool(self.sessions) or any(begun <= late for begun in self.opening.values())

    def ready(self) -> bool:
        """Whether a session would take work this moment."""
        return self.idle.ready > 0

    # -- the turn

    def collect(self) -> None:
        """Hand over what finished, note what ended and what has room."""
        turn = self._turn
        if not (turn.done or turn.hungry or turn.ended):
            return
        finished, ended = turn.take_done(), turn.take_ended()
        if finished:
            self.under_way -= len(finished)
            if self.failures and any(session.wire.completed for session in self._newer):
                self.failures, self.out_since = 0, None
                self.pool.source.event(self, "resumed", None, None)
            self.pool.source.settle(self, finished)
        for session in ended:  # all of them first: to forget one may lead to handing out
            self.idle.discard(session)
        for session in ended:
            self._forget(session)
        self.idle.note_all(turn.take_hungry(), self.sessions)  # those not retired or ended since they asked

    def room(self) -> int:
        """Transactions that its idle sessions would take."""
        return self.idle.ready if self.paced and not self.counted else self.idle.room

    def fill(self, most: int = NO_LIMIT) -> int:
        """Give idle sessions as many transactions of the source's as they take, at most `most`; how many there were."""
        room = self.room()
        if not room:
            return 0
        self.at_once = self.idle.ready
        taken = self.pool.source.take(self, room if room < most else most)
        if taken:
            self.under_way += len(taken)
            self.idle.hand_out(taken, self.spent)
        return len(taken)

    def recall(self) -> list[Transaction]:
        """Take back every transaction of which nothing was written."""
        taken = [tx for session in self.sessions for tx in session.wire.take_back()]
        self.under_way -= len(taken)
        return taken

    def let_go(self) -> None:
        """One session is given no more, and ends when it is done: its place is wanted elsewhere."""
        staying = [session for session in self.sessions if session not in self.spent]
        if staying:
            session = min(staying, key=lambda one: one.wire.load())
            session.left = 0
            self.idle.discard(session)
            self.spent.add(session)

    def rest(self) -> None:
        """No session is given more."""
        for session in self.sessions:
            session.left = 0
        self.spent |= self.sessions
        self.idle.clear()

    def retire_spent(self) -> None:
        for session in [session for session in self.spent if session.wire.load() == 0]:
            self._retire(session)

    # -- connections

    def may_open(self, at_once: int, now: float) -> int:
        """How many connections may be begun now, of several egresses: at most `at_once` are on the way at a time.

        One is the trial of a lane that failed; and one that hangs is not given more.
        """
        trial = self.failures > 0 and bool(self.opening or self._newer)
        hangs = bool(self.opening) and not self.sessions and not self.on_the_way(now)
        if self.pausing or trial or hangs:
            return 0
        return min((at_once if self.proved else 1) - len(self.opening), self.places())

    def places(self) -> int:
        """Connections that it may have and has not."""
        return self.limit - len(self.sessions) - len(self.opening) - self.leaving

    def on_the_way(self, now: float) -> int:
        """Connections being opened, without those that take long: nobody counts on them."""
        return sum(begun > now - SLOW_OPENING for begun in self.opening.values())

    def open(self) -> None:
        self.opening[self._loop.create_task(self._open())] = self._loop.time()

    async def _open(self) -> None:
        era, failure = self._era, None
        try:
            known_as = self.egress.name if self.egress is not None else None
            session = await open_session(self.endpoint, self._turn, tokens=self.pool.tokens, egress=known_as)
        except Exception as error:
            failure = _as_ours(error)
        finally:
            self.opening.pop(asyncio.current_task(), None)  # type: ignore[arg-type]
        if failure is not None:
            self._on_failure(failure)
            return
        if era == self._era:
            self.proved = self.pool.proved = True
            self._newer.add(session)
        session.left = min(
            self.endpoint.options.messages_per_connection or NO_LIMIT, session.wire.offer.mail_max or NO_LIMIT
        )
        if self.egress is None and session.label is not None:
            self.name = session.label.egress  # None where the host is one that goes by no proxy
        self.sessions.add(session)
        self.idle.note(session)
        self.pool.source.event(self, "connected", session, None)
        if self.pool.closing:
            self._retire(session)
        self._watch_idle()
        self.wake()

    def wake(self) -> None:
        self._turn.note(True)

    def _forget(self, session: Session) -> None:
        if session not in self.sessions:
            return
        self._drop(session)
        self.pool.source.event(self, "disconnected", session, session.error)
        if isinstance(session.error, BulkmailError) and str(session.error) != CLOSED_BY_US:
            self.last_error = session.error
            if self._simpler(session):
                return
            if session.wire.completed == 0 and (session.wire.begun or self.pool.source.backlog(self)):
                # a relay that takes connections and drops them before the first message is as good as down
                self._on_failure(session.error)

    def _drop(self, session: Session) -> None:
        self.idle.discard(session)
        self._asked.pop(session, None)
        self.spent.discard(session)
        self._newer.discard(session)
        self.sessions.discard(session)

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
            self.pool.name,
            "CHUNKING" if wire.chunking else "PIPELINING",
            session.error,
            extra={"cid": session.label.id if session.label else None},
        )
        return True

    def _on_failure(self, error: BulkmailError) -> None:
        pool = self.pool
        self.proved = False
        if len(pool.lanes) == 1 or isinstance(error, AuthError):
            pool.proved = False
        self._newer.clear()
        self._era += 1
        self._failed_at = self._loop.time()
        self.last_error = error
        pool.source.event(self, "connect_failed", None, error)
        if pool.closing or pool.dead is not None:
            return
        if self._retry is None:
            self.failures += 1
            self.out_since = self.out_since if self.out_since is not None else self._loop.time()
        elif self.connections:
            return  # several were opened together, and failed together: that is one failure
        pause = pool.source.failed(self, error, self.failures)
        if pause is None:
            pool.give_up(error)
        elif self._retry is None:
            self._retry = self._loop.call_later(pause, self._try_again)
            pool.note()  # the others take over

    def _try_again(self) -> None:
        self._retry = None
        self.wake()

    def _retire(self, session: Session) -> None:
        """QUIT and forget; nothing is under way on it."""
        self._drop(session)
        self.pool.source.event(self, "disconnected", session, None)
        self.pool.say_goodbye(self, close_politely(session))

    # -- idle connections

    def _watch_idle(self) -> None:
        if self._sweep is None and self.sessions:
            every = min(1.0, self.endpoint.options.idle_timeout, KEEP_ALIVE_SECONDS)
            self._sweep = self._loop.call_later(every, self._close_idle)

    def _close_idle(self) -> None:
        self._sweep = None
        oldest = self._loop.time() - self.endpoint.options.idle_timeout
        for session in list(self.idle):
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
                self.wake()

        session.call(b"NOOP\r\n", "NOOP").add_done_callback(answered)
        self.idle.note(session)  # it is not ready meanwhile

    # -- the end

    def stop_timers(self) -> None:
        for timer in (self._retry, self._sweep):
            if timer is not None:
                timer.cancel()

    def end(self, abort: bool) -> None:
        """QUIT the idle sessions, hang up on the others (abort: on all)."""
        for session in list(self.sessions):
            if abort or session.wire.load():
                session.abort(ConnectionLost(CLOSED_BY_US))
            else:
                self._retire(session)
        self.pool.take_turn()


def _as_ours(error: Exception) -> BulkmailError:
    """A fault of our own must not leave the work waiting for a connection for ever: it ends the pool."""
    if isinstance(error, BulkmailError):
        return error
    wrapped = BulkmailError(f"{type(error).__name__}: {error}", permanent=True)
    wrapped.__cause__ = error
    return wrapped

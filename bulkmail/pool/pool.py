"""Many sessions to one relay, by one way or by several: opened as work needs them, and fed by the batch.

The pool asks its `Source` for transactions when sessions have room, and gives finished ones back; it decides nothing
about retries. Each egress has a `Lane`; which of them the next connection or transaction goes by is decided here, by
weight. All of it runs on the event loop, once a turn (`Turn`), never once a message.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import math
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

from bulkmail.egress import Egress
from bulkmail.errors import JOB, AuthError, BulkmailError, TlsError
from bulkmail.pool.lane import SLOW_OPENING, Lane
from bulkmail.pool.limits import Alarm
from bulkmail.pool.weights import Weights
from bulkmail.smtp.open import tokens_of
from bulkmail.smtp.session import Session
from bulkmail.url import Endpoint
from bulkmail.wire.transaction import Transaction

OPENING_AT_ONCE = 25  # handshakes under way at a time: a burst of hundreds looks like an attack to a relay


class Source(Protocol):
    """Where a pool's work comes from and where its outcome goes. None of these may await."""

    def backlog(self, lane: Lane) -> int:
        """How many transactions take() would give now (an estimate; decides whether to open connections)."""

    def take(self, lane: Lane, room: int) -> list[Transaction]:
        """Up to `room` transactions, to be sent now."""

    def settle(self, lane: Lane, finished: list[Transaction]) -> None:
        """These ended: DONE, NOT_TAKEN or IN_DOUBT."""

    def failed(self, lane: Lane, error: BulkmailError, failures: int) -> float | None:
        """A connection could not be opened or carried nothing, `failures` times in a row.

        Returns seconds before this lane's next try; None: give the relay up.
        """

    def event(self, lane: Lane, name: str, session: Session | None, error: BaseException | None) -> None:
        """ "connected", "disconnected", "connect_failed", or "resumed": a lane that had failed works."""


class Pool:
    """endpoint: the relay, with its options; limit: connections at most (default: the endpoint's `connections`).

    egresses  the ways to it; none: the one that its options say
    paced     the source grants by a rate (see Lane)
    eager     (of one egress) open all connections that the work could use, also while there are idle ones
    """

    def __init__(
        self,
        endpoint: Endpoint,
        source: Source,
        *,
        name: str = "",
        limit: int = 0,
        paced: bool = False,
        egresses: Iterable[Egress] = (),
        eager: bool = False,
    ) -> None:
        self.endpoint, self.source, self.eager = endpoint, source, eager
        self.name = name or endpoint.host
        self.limit = limit or endpoint.options.connections
        self.dead: BaseException | None = None  # why it gave up
        self.closing = False
        # there is no login, or one has worked (and, of a single egress, since its last failure): only then are several
        # connections opened at once
        self.proved = not endpoint.logs_in
        self.tokens = tokens_of(endpoint.options)  # fetched once for all sessions
        self._loop = asyncio.get_running_loop()
        ways: list[Egress | None] = list(egresses) or [None]
        self.lanes = [Lane(self, way, paced or (way is not None and way.rate is not None)) for way in ways]
        self._only = self.lanes[0] if len(self.lanes) == 1 else None
        weights = [lane.weight for lane in self.lanes]
        self._doors, self._dealt = Weights(weights), Weights(weights)  # of connections, of transactions
        self._noted = False
        self._slow = Alarm(self._loop, self.wake)
        self._goodbyes: set[asyncio.Task[None]] = set()
        self._quiet: asyncio.Future[None] | None = None

    # -- the turn

    def wake(self) -> None:
        """There is new work: look for it on the next turn."""
        self.lanes[0].wake()

    def take_turn(self) -> None:
        """A lane has news: then so may others have, which are not called for theirs."""
        for lane in self.lanes:
            lane.collect()
        self.note()

    def note(self) -> None:
        """There is something to be done. Of several who say so in one turn of the loop the last is enough."""
        if self._only is not None:
            self.pump()
        elif not self._noted:
            self._noted = True
            self._loop.call_soon(self.pump)

    def pump(self) -> None:
        """Fill what has room, open and close connections."""
        self._noted = False
        given = 0 if self.closing else self._fill()
        for lane in self.lanes:
            if lane.spent:
                lane.retire_spent()
        if not self.closing and self.dead is None:
            self._open_more(given)
        if self._quiet is not None and not self._quiet.done() and not self.busy():
            self._quiet.set_result(None)

    def _fill(self) -> int:
        """Share what the source has among the sessions with room; how much that was."""
        if self._only is not None:
            return self._only.fill()
        rooms = [lane.room() for lane in self.lanes]
        room = sum(rooms)
        if not room:
            return 0
        waiting = 0
        for lane, some in zip(self.lanes, rooms, strict=True):
            if some and waiting < room:
                waiting = max(waiting, self.source.backlog(lane))
        usable = [not lane.pausing for lane in self.lanes]
        # enough for everybody: nothing is to be shared out
        planned = rooms if waiting >= room else self._dealt.plan(waiting, rooms, usable)
        given = [0] * len(self.lanes)
        order = self._dealt.order(usable)  # where a rate grants less than planned, whoever asks first has it
        for place in order:
            if planned[place]:
                given[place] = self.lanes[place].fill(planned[place])
        # What one may not take (rate, recipients) may be another's; who got less than planned would get no more.
        for place in order:
            if self.lanes[place].idle and given[place] == planned[place]:
                given[place] += self.lanes[place].fill()
        self._dealt.charge(given, usable)
        return sum(given)

    # -- connections

    def _open_more(self, given: int) -> None:
        if self._only is None:
            self._open_by_several(given)
        elif self._only.places() > 0 and not self._only.pausing and (self.eager or not self._only.ready()):
            self._open_by_one(self._only)

    def _open_by_one(self, lane: Lane) -> None:
        free = min((OPENING_AT_ONCE if self.proved else 1) - len(lane.opening), lane.places())
        if free > 0:
            taken_care_of = len(lane.opening) + (len(lane.idle) if self.eager else 0)
            for _ in range(min(free, self.source.backlog(lane) - taken_care_of)):
                lane.open()

    def _open_by_several(self, given: int) -> None:
        opening = self._on_the_way()
        places = self.limit - self.connections - len(self._goodbyes)
        free = min((OPENING_AT_ONCE if self.proved else 1) - opening, places)
        if free > 0:
            wanted = self._wanted(opening, given)
            if any(wanted):
                for lane, share in zip(self.lanes, self._doors.deal(min(free, sum(wanted)), wanted), strict=True):
                    for _ in range(share):
                        lane.open()
        elif places <= 0:
            self._make_room(given)
        if self.connections:
            self._look_again()

    def _on_the_way(self) -> int:
        """Connections being opened; those that hang hold up nobody, once a login has worked."""
        if not self.proved or not any(lane.opening for lane in self.lanes):
            return sum(len(lane.opening) for lane in self.lanes)
        now = self._loop.time()
        return sum(lane.on_the_way(now) for lane in self.lanes)

    def _look_again(self) -> None:
        """When a connection on the way has taken too long."""
        begun = [time for lane in self.lanes for time in lane.opening.values()]
        if not begun:
            return
        now = self._loop.time()
        soonest = min((time for time in begun if time > now - SLOW_OPENING), default=None)
        if soonest is not None:
            self._slow.ring_in(soonest + SLOW_OPENING - now)

    def _wanted(self, opening: int, given: int) -> list[int]:
        """How many connections each lane could use now. Idle ones elsewhere are enough, unless it is owed its share."""
        backlogs = [0 if lane.pausing else self.source.backlog(lane) for lane in self.lanes]
        ready = [lane.ready() for lane in self.lanes]
        most = max(backlogs)
        enough = not most or any(some and waiting for some, waiting in zip(ready, backlogs, strict=True))
        at_once = max(1, OPENING_AT_ONCE // len(self.lanes))
        now, fair, wanted = self._loop.time(), self._fair(), []
        for place, lane in enumerate(self.lanes):
            room = 0 if ready[place] else lane.may_open(at_once, now)
            owed = given > 0 and lane.connections < max(1, int(fair.get(lane, 0))) and self._owed(lane)
            wanted.append(max(0, min(room, int(owed) if enough else backlogs[place] - opening)))
        return self._fairly(wanted, fair) if any(wanted) else wanted

    def _owed(self, lane: Lane) -> bool:
        """Whether others have carried something in its place."""
        return self._dealt.owed(self.lanes.index(lane)) >= 1

    def _fairly(self, wanted: list[int], fair: dict[Lane, float]) -> list[int]:
        """None gets more than its share of the places as long as others lack theirs."""
        within = [
            min(count, max(0, math.ceil(fair.get(lane, 0)) - lane.connections))
            for lane, count in zip(self.lanes, wanted, strict=True)
        ]
        return within if any(within) else wanted

    def _fair(self) -> dict[Lane, float]:
        """The share of the connections of each lane that is not out."""
        usable = [lane for lane in self.lanes if not lane.pausing]
        total = sum(lane.weight for lane in usable)
        return {lane: min(self.limit * lane.weight / total, lane.limit) for lane in usable}

    def _make_room(self, given: int) -> None:
        """All connections are in use, and a lane has less than its share: another's is let go, one at a time."""
        if self._goodbyes or any(lane.spent for lane in self.lanes):
            return  # there will be room
        fair, now = self._fair(), self._loop.time()
        short = [lane for lane, share in fair.items() if lane.connections < int(share) and lane.may_open(1, now) > 0]
        if not short:
            return
        over = [lane for lane in self.lanes if lane.sessions and lane.connections > math.ceil(fair.get(lane, 0))]
        if over and any(self.source.backlog(lane) or (given and self._owed(lane)) for lane in short):
            max(over, key=lambda lane: lane.connections / lane.weight).let_go()

    def give_up(self, error: BulkmailError) -> None:
        self.dead = self.failure(error)

    def failure(self, error: BulkmailError, lanes: Iterable[Lane] | None = None) -> BulkmailError:
        """`error`, which a lane had last; of several egresses, with what is wrong with each (of `lanes`)."""
        if len(self.lanes) == 1:
            return error
        every = copy.copy(error)
        out = [lane for lane in (self.lanes if lanes is None else lanes) if lane.out]
        every.args = ("; ".join(f"egress {lane.name}: {lane.last_error}" for lane in out),)
        return every

    def hopeless(self) -> bool:
        """Whether trying again cannot help by any egress, or does harm: a refused login is the same by each."""
        errors = [lane.last_error for lane in self.lanes if lane.out]
        refused = any(isinstance(error, AuthError) and error.permanent for error in errors)
        return refused or (self.out and all(map(_final, errors)))

    def say_goodbye(self, lane: Lane, goodbye: Coroutine[Any, Any, None]) -> None:
        """Run the end of a session that the lane has given up; until then its place is taken."""
        task = self._loop.create_task(goodbye)
        self._goodbyes.add(task)
        lane.leaving += 1
        task.add_done_callback(functools.partial(self._said, lane))

    def _said(self, lane: Lane, task: asyncio.Task[None]) -> None:
        self._goodbyes.discard(task)
        lane.leaving -= 1
        self.wake()

    def resize(self, limit: int) -> None:
        """So many connections at most from now on; those that are too many end when they have sent what they hold."""
        self.limit = limit
        for lane in self.lanes:
            lane.limit = limit if lane.most is None else min(limit, lane.most)
            for _ in range(lane.connections - len(lane.spent) - lane.limit):
                lane.let_go()
        for _ in range(self.connections - sum(len(lane.spent) for lane in self.lanes) - limit):
            max(self.lanes, key=lambda lane: lane.connections - len(lane.spent)).let_go()
        self.wake()

    def rest(self) -> None:
        """There is nothing to do for a while: idle sessions end, and the others when they have sent what they hold."""
        for lane in self.lanes:
            lane.rest()
        self.wake()

    # -- how it is

    @property
    def sessions(self) -> set[Session]:
        if len(self.lanes) == 1:
            return self.lanes[0].sessions
        return set().union(*(lane.sessions for lane in self.lanes))

    @property
    def connections(self) -> int:
        """Open ones and those on the way."""
        return sum(lane.connections for lane in self.lanes)

    @property
    def connected(self) -> bool:
        """Whether there is a session, or one on the way."""
        return any(lane.connections for lane in self.lanes)

    @property
    def out(self) -> bool:
        """Every egress failed last."""
        return all(lane.out for lane in self.lanes)

    def busy(self) -> int:
        """Transactions that the sessions hold."""
        return sum(lane.under_way for lane in self.lanes)

    # -- the end

    def recall(self) -> list[Transaction]:
        """Take back every transaction of which nothing was written."""
        return [tx for lane in self.lanes for tx in lane.recall()]

    async def finished(self) -> None:
        """Return when nothing is under way on any session; their deadlines see to it that this is not never."""
        if self.busy():
            self._quiet = self._loop.create_future()
            await self._quiet

    async def close(self, *, abort: bool = False) -> None:
        """QUIT the idle sessions, hang up on the others (abort: on all), open no more. All that they had is settled."""
        self.closing = True
        self._slow.cancel()
        opening = [task for lane in self.lanes for task in lane.opening]
        for lane in self.lanes:
            lane.stop_timers()
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for lane in self.lanes:
            lane.end(abort)
        await asyncio.gather(*self._goodbyes, return_exceptions=True)


def _final(error: BaseException | None) -> bool:
    """Trying again cannot help."""
    if not isinstance(error, BulkmailError):
        return False
    return error.scope == JOB or (isinstance(error, AuthError | TlsError) and error.permanent)

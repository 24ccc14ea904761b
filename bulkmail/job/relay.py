"""One relay of a job: its pool, its limit, how it is, and when to give it up.

Who looks after what of its health is told in `breaker`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from bulkmail.errors import BulkmailError, EnvelopeRefused
from bulkmail.job.breaker import CLOSED, Breaker
from bulkmail.job.compose import split
from bulkmail.job.tally import EgressTally, RelayTally
from bulkmail.pool.limits import Limit
from bulkmail.pool.pool import Pool
from bulkmail.smtp.outcome import fitting, over_the_limit
from bulkmail.wire.reply import Reply

if TYPE_CHECKING:
    from bulkmail.job.specs import RelaySpec
    from bulkmail.pool.lane import Lane
    from bulkmail.pool.pool import Source
    from bulkmail.wire.transaction import Transaction

FIRST_PAUSE = 0.25  # seconds after the first failed connection of an egress; doubled after each further one
LONGEST_PAUSE = 30.0
OUT_SECONDS = 2.0  # without a connection for so long (a shorter hiccup needs no other relay), it does not work
REFUSALS = 3  # of the sender in a row, before any message was taken: the relay refuses us, not the recipients
LATE_REFUSALS = 20  # the same of one that has taken some: each message is offered MAX_TRIES times, so it is of several


class Names(Protocol):
    """Who knows the numbers of relays' and egresses' names: a Ledger."""

    def name_id(self, name: str | None) -> int: ...


class Relay:
    """connections: how many of the job's it may have; patience: seconds of failures before it is given up."""

    def __init__(self, spec: RelaySpec, connections: int, limit: Limit, patience: float) -> None:
        self.spec, self.connections, self.limit, self.patience = spec, connections, limit, patience
        self.name = spec.name
        self.tally = RelayTally()
        self.pool: Pool = None  # type: ignore[assignment]  # until open_pool
        self.id = 0  # of its name in the ledger
        self.egress_ids: dict[str | None, int] = {None: 0}
        self.batch = spec.endpoint.options.batch  # recipients that it takes in one transaction
        self.accepted = False  # it has taken a message in this run
        self.breaker = Breaker()
        self._refusals = 0  # since it last took a message
        self._failing_since: float | None = None

    def open_pool(self, source: Source, names: Names) -> None:
        """Make the pool, whose work comes from `source`."""
        self.pool = Pool(
            self.spec.endpoint,
            source,
            name=self.name,
            limit=self.connections,
            egresses=self.spec.egresses,
        )
        for lane in self.pool.lanes:
            self.egress_ids[lane.name] = names.name_id(lane.name)
            if lane.egress is not None:
                self.tally.of(lane.egress.name)  # figures of each, also of those that are never used

    @property
    def usable(self) -> bool:
        return self.pool.dead is None

    def carries(self, pattern: str, lane: Lane) -> bool:
        """Whether mail to these domains may go by this egress."""
        return self.spec.pins is None or self.spec.pins.allows(pattern, lane.name)

    def works(self, now: float, pattern: str | None = None) -> bool:
        """It can be counted on, for mail to these domains: not given up, its circuit closed, no connection missing."""
        return self.breaker.state == CLOSED and self.reachable(now, pattern)

    def reachable(self, now: float, pattern: str | None = None) -> bool:
        """As works(), whatever its circuit."""
        if not self.usable:
            return False
        lanes = [lane for lane in self.pool.lanes if pattern is None or self.carries(pattern, lane)]
        return not all(self._silent(lane, now) for lane in lanes)

    def condition(self, now: float) -> object:
        """Changes with all that others have to know of it."""
        return self.usable, self.breaker.state, tuple(self._silent(lane, now) for lane in self.pool.lanes)

    def _silent(self, lane: Lane, now: float) -> bool:
        """Nothing has come by it for longer than OUT_SECONDS, although it was tried."""
        if any(session.wire.completed for session in lane.sessions):
            return False  # it is only further connections that are refused
        if lane.out_since is not None:
            return now - lane.out_since >= min(OUT_SECONDS, self.patience)
        return not lane.sessions and any(now - begun >= OUT_SECONDS for begun in lane.opening.values())

    def lost_patience(self, now: float) -> bool:
        """It has been failing for so long that it is given up unless there are others."""
        since = self._failing_since
        return since is not None and not self._works() and now - since >= self.patience

    def ids(self, lane: Lane) -> tuple[int, int]:
        """The numbers in the ledger of the relay's and of the egress's name."""
        return self.id, self.egress_ids.get(lane.name, 0)

    def tallies(self, lane: Lane) -> tuple[RelayTally | EgressTally, ...]:
        """Where what this egress carried is counted."""
        return (self.tally,) if lane.name is None else (self.tally, self.tally.of(lane.name))

    def took_one(self) -> None:
        self.accepted, self._refusals, self._failing_since = True, 0, None
        self.breaker.failures = 0

    def regroup(self, tx: Transaction) -> tuple[frozenset[int], Iterable[Transaction]]:
        """Those who did not fit into this transaction go into others: smaller ones, by this relay, from now on.

        Their places, and these, the first one last.
        """
        elsewhere = over_the_limit(tx)
        if elsewhere:
            self.batch = min(self.batch, fitting(tx))
        return frozenset(elsewhere), reversed(split(tx, self.batch, elsewhere)) if elsewhere else ()

    def forgive(self, now: float) -> None:
        """Its patience begins anew, and that with its egresses (`now`: the loop's time)."""
        self._failing_since = None
        for lane in self.pool.lanes:
            lane.out_since = now if lane.out_since is not None else None

    def refused_us(self, reply: Reply) -> bool:
        """The relay refused the sender. True if that now means that it refuses everyone; then it is given up."""
        self._refusals += 1
        self.tally.last_error = str(reply)
        if self._refusals < (LATE_REFUSALS if self.accepted else REFUSALS):
            return False
        if self.usable:
            self.pool.dead = EnvelopeRefused(f"it refuses our mail: {reply}", reply=reply, scope="relay")
        return True

    def refuses_everyone(self, count: int) -> None:
        """It refused `count` recipients in a row and has never taken a message: it is given up."""
        if self.usable:
            said = f"it refuses everyone: {count} recipients in a row, the last: {self.tally.last_error}"
            self.pool.dead = EnvelopeRefused(said, permanent=True, scope="relay")

    def pause(self, lane: Lane, error: BulkmailError, failures: int) -> float | None:
        """Seconds until the egress is tried again, after so many failures in a row; None: there is no patience left."""
        for tally in self.tallies(lane):
            tally.last_error = str(error)
        if self.pool.hopeless():
            return None
        now = time.monotonic()
        growing: float = min(FIRST_PAUSE * 2 ** min(failures - 1, 16), LONGEST_PAUSE)
        if self._works():
            self._failing_since = now
            return growing
        if self._failing_since is None:
            self._failing_since = now
        left = self._failing_since + self.patience - now
        return min(growing, left) if left > 0 else None

    def _works(self) -> bool:
        """Whether there is an egress that has not failed, or a connection open that has settled a message.

        In the second case it is only further ones that are refused. One that was opened a moment ago says nothing: some
        take connections and drop each at the first command.
        """
        return not self.pool.out or any(session.wire.completed for session in self.pool.sessions)

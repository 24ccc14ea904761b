"""One relay of a job: its pool, its limit, and when to give it up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bulkmail.errors import BulkmailError, EnvelopeRefused
from bulkmail.job.tally import EgressTally, RelayTally
from bulkmail.pool.limits import Limit
from bulkmail.pool.pool import Pool
from bulkmail.wire.reply import Reply

if TYPE_CHECKING:
    from bulkmail.job.ledger import Ledger
    from bulkmail.job.specs import RelaySpec
    from bulkmail.pool.lane import Lane
    from bulkmail.pool.pool import Source

FIRST_PAUSE = 0.25  # seconds after the first failed connection of an egress; doubled after each further one
LONGEST_PAUSE = 30.0
REFUSALS = 3  # of the sender in a row, before any message was taken: the relay refuses us, not the recipients


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
        self._refusals = 0  # since it last took a message
        self._failing_since: float | None = None

    def open_pool(self, source: Source, ledger: Ledger, *, job_paced: bool) -> None:
        """Make the pool, whose work comes from `source`. job_paced: the job has a rate."""
        paced = job_paced or self.limit.rate is not None
        self.pool = Pool(
            self.spec.endpoint,
            source,
            name=self.name,
            limit=self.connections,
            paced=paced,
            egresses=self.spec.egresses,
        )
        for lane in self.pool.lanes:
            self.egress_ids[lane.name] = ledger.name_id(lane.name)
            if lane.egress is not None:
                self.tally.of(lane.egress.name)  # figures of each, also of those that are never used

    @property
    def usable(self) -> bool:
        return self.pool.dead is None

    def carries(self, route: str, lane: Lane) -> bool:
        """Whether mail of this route may go by this egress."""
        return self.spec.pins is None or self.spec.pins.allows(route, lane.name)

    def ids(self, lane: Lane) -> tuple[int, int]:
        """The numbers in the ledger of the relay's and of the egress's name."""
        return self.id, self.egress_ids.get(lane.name, 0)

    def tallies(self, lane: Lane) -> tuple[RelayTally | EgressTally, ...]:
        """Where what this egress carried is counted."""
        return (self.tally,) if lane.name is None else (self.tally, self.tally.of(lane.name))

    def took_one(self) -> None:
        self.accepted, self._refusals, self._failing_since = True, 0, None

    def refused_us(self, reply: Reply) -> bool:
        """The relay refused the sender. True if that now means that it refuses everyone; then it is given up."""
        self._refusals += 1
        self.tally.last_error = str(reply)
        if self.accepted or self._refusals < REFUSALS:
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
        """Seconds until the egress is tried again, after so many failures in a row; None: the relay is given up."""
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

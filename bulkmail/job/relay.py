"""One relay of a job: its pool, its limit, and when to give it up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bulkmail.errors import AuthError, BulkmailError, ConfigError, EnvelopeRefused, TlsError
from bulkmail.job.tally import RelayTally
from bulkmail.pool.limits import Limit
from bulkmail.wire.reply import Reply

if TYPE_CHECKING:
    from bulkmail.job.specs import RelaySpec
    from bulkmail.pool.pool import Pool

FIRST_PAUSE = 0.25  # seconds after the first failed connection; doubled after each further one
LONGEST_PAUSE = 30.0
REFUSALS = 3  # of the sender in a row, before any message was taken: the relay refuses us, not the recipients


class Relay:
    """connections: how many of the job's it may have; patience: seconds of failures before it is given up."""

    def __init__(self, spec: RelaySpec, connections: int, limit: Limit, patience: float) -> None:
        self.spec, self.connections, self.limit, self.patience = spec, connections, limit, patience
        self.name = spec.name
        self.tally = RelayTally()
        self.pool: Pool = None  # type: ignore[assignment]  # set right after the pool is made with us as its owner
        self.ids = (0, 0)  # of the relay's and the egress's name in the ledger
        self.egress = str(spec.endpoint.options.proxy) if spec.endpoint.options.proxy else None
        self.batch = spec.endpoint.options.batch  # recipients that it takes in one transaction
        self.accepted = False  # it has taken a message in this run
        self._refusals = self._failures = 0  # since it last took a message
        self._failing_since: float | None = None

    @property
    def usable(self) -> bool:
        return self.pool.dead is None

    def took_one(self) -> None:
        self.accepted, self._refusals, self._failures, self._failing_since = True, 0, 0, None

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

    def pause(self, error: BulkmailError) -> float | None:
        """Seconds until the next connection is tried; None: it is given up."""
        self.tally.last_error = str(error)
        if _final(error):
            return None
        now = time.monotonic()
        self._failures += 1
        if self._failing_since is None or self._works():
            self._failing_since = now
        left = self._failing_since + self.patience - now
        if left <= 0:
            return None
        growing: float = FIRST_PAUSE * 2 ** min(self._failures - 1, 16)
        return min(growing, LONGEST_PAUSE, left)

    def _works(self) -> bool:
        """Whether a connection is open that has settled a message: then it is only further ones that it refuses.

        One that was opened a moment ago says nothing: some take connections and drop each at the first command.
        """
        return any(session.wire.completed for session in self.pool.sessions)


def _final(error: BulkmailError) -> bool:
    """Trying again cannot help, or harms: a refused password tried again locks accounts."""
    return isinstance(error, ConfigError) or (isinstance(error, AuthError | TlsError) and error.permanent)

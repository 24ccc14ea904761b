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
        self.accepted = False  # it has taken a message in this run
        self._refusals = 0
        self._failing_since: float | None = None

    @property
    def usable(self) -> bool:
        return self.pool.dead is None

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

    def pause(self, error: BulkmailError, failures: int) -> float | None:
        """Seconds until the next connection is tried; None: it is given up."""
        self.tally.last_error = str(error)
        if isinstance(error, AuthError | ConfigError) or (isinstance(error, TlsError) and error.permanent):
            return None  # trying a refused password again locks accounts
        now = time.monotonic()
        if self._failing_since is None or self.pool.sessions:
            self._failing_since = now
        left = self._failing_since + self.patience - now
        if left <= 0:
            return None
        growing: float = FIRST_PAUSE * 2 ** min(failures - 1, 16)
        return min(growing, LONGEST_PAUSE, left)

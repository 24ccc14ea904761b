"""What the limits of the job, of its relays and of their egresses allow, and an alarm for when they allow more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from bulkmail.job.relay import Relay
from bulkmail.pool.lane import Lane
from bulkmail.pool.limits import Alarm, Limit, grant_all


class Pacing:
    """limit: the job's; relays: each with its own; wake: called when somebody had to wait and need not any more."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limit: Limit, relays: list[Relay], wake: Callable[[], None]
    ) -> None:
        self._loop, self._limit, self._relays = loop, limit, relays
        self._alarm = Alarm(loop, wake)

    def limits(self, relay: Relay, lane: Lane) -> bool:
        """Whether any limit holds for what this egress of the relay carries."""
        return any(limit.rate is not None for limit in (self._limit, relay.limit, lane.pace))

    def grant(self, relay: Relay, lane: Lane, count: int, now: float) -> bool:
        """All `count` or none, of every limit; if none, the alarm is set."""
        if grant_all((relay.limit, lane.pace, self._limit), count, now):
            return True
        self._alarm.ring_in(self._wait(relay, lane, count))
        return False

    def allows(self, relay: Relay, lane: Lane) -> bool:
        """Whether one more could leave now; if not, the alarm is set."""
        if not self.limits(relay, lane):
            return True
        wait = self._wait(relay, lane, 1)
        if wait > 0:
            self._alarm.ring_in(wait)
        return wait <= 0

    def rate(self) -> float | None:
        """What job and relays together allow a second, or None."""
        together = _sum(relay_rate(relay) for relay in self._relays if relay.usable)
        return min((rate for rate in (self._limit.rate, together) if rate is not None), default=None)

    def _wait(self, relay: Relay, lane: Lane, count: int) -> float:
        now = self._loop.time()
        return max(limit.wait(now, count) for limit in (self._limit, relay.limit, lane.pace))


def relay_rate(relay: Relay) -> float | None:
    """What the relay and its egresses together allow a second, or None."""
    together = _sum(lane.pace.rate for lane in relay.pool.lanes)
    return min((rate for rate in (relay.limit.rate, together) if rate is not None), default=None)


def _sum(rates: Iterable[float | None]) -> float | None:
    """None where one of them is no limit."""
    known = list(rates)
    return None if None in known else sum(rate for rate in known if rate is not None)

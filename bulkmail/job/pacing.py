"""What the limits of the job and of its relays allow, and an alarm for when they allow more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bulkmail.job.relay import Relay
from bulkmail.pool.limits import Limit

LEAST_WAIT = 0.001  # seconds: the resolution of the loop's timers


class Pacing:
    """limit: the job's; relays: each with its own; wake: called when somebody had to wait and need not any more."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limit: Limit, relays: list[Relay], wake: Callable[[], None]
    ) -> None:
        self._loop, self._limit, self._relays, self._wake = loop, limit, relays, wake
        self._alarm: asyncio.Handle | None = None
        self._due = 0.0

    def limits(self, relay: Relay) -> bool:
        """Whether any limit holds for this relay."""
        return self._limit.rate is not None or relay.limit.rate is not None

    def grant(self, relay: Relay, count: int, now: float) -> bool:
        """All `count` or none, of the relay's limit and of the job's; if none, the alarm is set."""
        granted: list[tuple[Limit, int]] = []
        for limit in (relay.limit, self._limit):
            granted.append((limit, limit.grant(count, now)))
            if granted[-1][1] < count:
                for given, number in granted:
                    given.give_back(number)
                self._wake_in(self._wait(relay, count))
                return False
        return True

    def allows(self, relay: Relay) -> bool:
        """Whether one more could leave now; if not, the alarm is set."""
        wait = self._wait(relay, 1)
        if wait > 0:
            self._wake_in(wait)
        return wait <= 0

    def rate(self) -> float | None:
        """What job and relays together allow a second, or None."""
        rates = [relay.limit.rate for relay in self._relays if relay.usable]
        together = None if None in rates else sum(rate for rate in rates if rate is not None)
        return min((rate for rate in (self._limit.rate, together) if rate is not None), default=None)

    def _wait(self, relay: Relay, count: int) -> float:
        now = self._loop.time()
        return max(limit.wait(now, count) for limit in (self._limit, relay.limit))

    def _wake_in(self, seconds: float) -> None:
        """One alarm serves all: the earliest."""
        due = self._loop.time() + max(seconds, LEAST_WAIT)
        if self._alarm is not None:
            if self._due <= due:
                return
            self._alarm.cancel()
        self._alarm, self._due = self._loop.call_at(due, self._on_alarm), due

    def _on_alarm(self) -> None:
        self._alarm = None
        self._wake()

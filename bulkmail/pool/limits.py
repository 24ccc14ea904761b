"""Rates, kept exactly: never more than rate x T + burst in any T seconds; and an alarm for when they allow more."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

BURST_SECONDS = 0.1  # the burst that a rate allows: a tenth of a second's worth, at least one
SLACK = 1e-9  # seconds: a float that is late by rounding is not late
LEAST_WAIT = 0.001  # seconds: the resolution of the loop's timers


class Limit:
    """The generic cell rate algorithm, by the batch. Time is a parameter (monotonic seconds), read once a decision.

    rate    per second; None: no limit
    burst   how many may leave at once after a pause
    """

    def __init__(self, rate: float | None, burst: float | None = None) -> None:
        if rate is not None and rate <= 0:
            raise ValueError(f"a rate is above 0, not {rate}")
        self.rate = rate
        self.burst = 1 if rate is None else max(1, math.floor(burst if burst is not None else rate * BURST_SECONDS))
        self._next = 0.0  # theoretical arrival time: when the last one granted would be due at an even pace, plus one

    def room(self, now: float) -> float:
        """How many may leave at `now`: a whole number, or infinity."""
        if self.rate is None:
            return math.inf
        start = max(self._next, now)
        return max(0, math.floor((now - start + SLACK) * self.rate + self.burst))

    def grant(self, wanted: int, now: float) -> int:
        """How many of `wanted` may leave at `now`; they count as having left."""
        granted = int(max(0, min(wanted, self.room(now))))
        if granted and self.rate is not None:
            self._next = max(self._next, now) + granted / self.rate
        return granted

    def give_back(self, count: int) -> None:
        """Of the granted ones `count` did not leave, and nothing was granted since."""
        if self.rate is not None:
            self._next -= count / self.rate

    def wait(self, now: float, count: int = 1) -> float:
        """Seconds until grant(count) grants them all; `count` is at most the burst."""
        if self.rate is None:
            return 0.0
        return max(0.0, self._next - (self.burst - count) / self.rate - now)


def grant_all(limits: Iterable[Limit], count: int, now: float) -> bool:
    """Whether all of the limits grant all of `count`; else none of them counts any."""
    granted: list[tuple[Limit, int]] = []
    for limit in limits:
        granted.append((limit, limit.grant(count, now)))
        if granted[-1][1] < count:
            for given, number in granted:
                given.give_back(number)
            return False
    return True


class Alarm:
    """Calls back once, at the earliest of the times that it was set to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop, self._call = loop, call
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # of the timer: uvloop's do not always know

    def ring_in(self, seconds: float) -> None:
        due = self._loop.time() + max(seconds, LEAST_WAIT)
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._timer, self._due = self._loop.call_at(due, self._ring), due

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._call()

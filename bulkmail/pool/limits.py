"""Rates, kept exactly: never more than rate x T + burst in any T seconds; and an alarm for when they allow more."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from bulkmail.wire.limit import BURST_SECONDS, OWN, Limit, reserve

__all__ = ["BURST_SECONDS", "OWN", "Alarm", "Limit", "grant_all", "reserve"]

LEAST_WAIT = 0.001  # seconds: the resolution of the loop's timers


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
        """Infinity: never."""
        if seconds == math.inf:
            return
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

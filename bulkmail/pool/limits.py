"""Rates, kept exactly: never more than rate x T + burst in any T seconds."""

from __future__ import annotations

import math

BURST_SECONDS = 0.1  # the burst that a rate allows: a tenth of a second's worth, at least one
SLACK = 1e-9  # seconds: a float that is late by rounding is not late


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

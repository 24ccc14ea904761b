"""A rate that rises over a time, in small steps below the straight line. Time is a parameter (monotonic seconds).

What counts is the time in which the job may send. A pause, be it a shut window or a job that was stopped, counts too,
but for no more than PAUSE_SHARE of the whole: a warm-up over two weeks goes by the clock, nights and all, and a ramp of
half an hour goes on in the morning about where it was, and does not jump to its end.
"""

from __future__ import annotations

from typing import Final

from bulkmail.job.specs import RampSpec

STEPS: Final = 200
LEAST_STEP: Final = 0.25  # seconds
PAUSE_SHARE: Final = 0.05


class Ramp:
    """elapsed: seconds that have counted so far, in earlier runs. It stands still until go()."""

    def __init__(self, spec: RampSpec, elapsed: float = 0.0) -> None:
        self.spec = spec
        self._step = max(spec.over / STEPS, LEAST_STEP)
        self._counted = min(elapsed, spec.over)
        self._since: float | None = None  # when it was set going

    def go(self, now: float) -> None:
        if self._since is None:
            self._since = now

    def hold(self, now: float) -> None:
        self._counted, self._since = self.elapsed(now), None

    def paused(self, seconds: float) -> None:
        """It stood still for so long. What was before its beginning does not count."""
        if not self._counted:
            return
        self._counted = min(self._counted + min(max(seconds, 0.0), self.spec.over * PAUSE_SHARE), self.spec.over)

    def elapsed(self, now: float) -> float:
        gone = now - self._since if self._since is not None else 0.0
        return min(self._counted + gone, self.spec.over)

    def rate(self, now: float) -> float:
        """A second: that of the step that `now` is in, which lies below the line."""
        elapsed = self.elapsed(now)
        if elapsed >= self.spec.over:
            return self.spec.end
        share = self._number(elapsed) * self._step / self.spec.over
        return self.spec.begin + (self.spec.end - self.spec.begin) * share

    def next_step(self, now: float) -> float | None:
        """When the rate next changes; None: it stands still, or has risen to its end."""
        elapsed = self.elapsed(now)
        if self._since is None or elapsed >= self.spec.over:
            return None
        ends = min((self._number(elapsed) + 1) * self._step, self.spec.over)
        return now + max(ends - elapsed, 0.001)

    def _number(self, elapsed: float) -> int:
        return int(elapsed / self._step + 1e-9)

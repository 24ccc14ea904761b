"""How far to slow down for a receiver that asks for it, and how to come back. No clock: time is a parameter (seconds).

Additive increase, multiplicative decrease, as TCP has it, and for its reason: many senders that do so share what there
is. A refusal counts once for all messages that were on their way when it came: only one that left at the new rate says
that this, too, is too much. What was taken lately says most about what is allowed, so the first step goes there at
once. Beyond the rate that was refused last, each further while without a refusal doubles the increase: a receiver that
has relaxed is not crept up on for hours.
"""

from __future__ import annotations

from typing import Final

from bulkmail.job.specs import AdaptiveSpec

# In so many seconds no lower than this share of what was taken when they began: what is refused whatever the rate is
# not refused for the rate.
STEADY_SECONDS, STEADIEST = 10.0, 0.5
DEEPEST: Final = 0.2  # of the rate, at one step: what was taken lately is measured, and may be off
# A second, and a share of a configured rate: slower, a job of a few would take hours for those who are left.
LOWEST, LOWEST_SHARE = 1.0, 0.1
LONG_WAIT: Final = 60.0  # seconds: who asks for this is not to be met with the old rate afterwards
DOUBLINGS: Final = 0.1  # of `recover`: the while after which the increase doubles, beyond the rate refused last
LEAST_SAMPLE: Final = 1.0  # seconds


class Meter:
    """How many a second there were lately, of a count that only grows."""

    def __init__(self, now: float, count: int) -> None:
        self._old, self._new = (now, count), (now, count)

    def note(self, now: float, count: int) -> None:
        """Called at least as often as the rate is to be believed."""
        if now - self._new[0] >= LEAST_SAMPLE:
            self._old, self._new = self._new, (now, count)

    def rate(self, now: float, count: int) -> float:
        """Over the last second or two of counting."""
        begin, before = self._old
        return max(0, count - before) / max(now - begin, LEAST_SAMPLE)


class Throttle:
    """One limit that a receiver has made us lower.

    rate    a second that is allowed now; None: all that is configured
    until   a pause lasts so long, or None
    """

    def __init__(self, spec: AdaptiveSpec) -> None:
        self.spec = spec
        self.rate: float | None = None
        self.until: float | None = None
        self._top = self._knee = 0.0  # the rate before the first refusal; at the last one
        self._lowered_at = self._raised_at = -1.0
        self._beyond_since: float | None = None
        self._steady, self._steady_since = 0.0, -1e9

    def refused(
        self, now: float, left_at: float, sent: float, stated: float | None, taken: float, wait: float | None
    ) -> bool:
        """A message that left at `left_at` was refused as too much. Returns whether anything has changed.

        sent    a second: what was sent lately; taken: what was accepted of it
        stated  a second: what the manifest says, or None
        wait    seconds that the receiver asks to wait, or None
        """
        longer = self._pause(now, wait)
        if left_at < self._lowered_at:
            return longer
        floor = self._floor(stated)
        if self.rate is None:
            self._knee = max(sent, floor)
            self._top = self._knee if stated is None else max(stated, floor)
        else:
            self._knee = max(self.rate, floor)
        at_once = self._knee * DEEPEST
        goal = at_once if wait is not None and wait >= LONG_WAIT else min(self._knee, taken) * self.spec.decrease
        if now - self._steady_since >= STEADY_SECONDS:
            self._steady, self._steady_since = STEADIEST * min(self._knee, taken), now
        if wait is None or wait < LONG_WAIT:
            goal = max(goal, min(self._steady, self._knee))
        self.rate = max(floor, at_once, goal)
        if self.spec.ceiling is not None:
            self.rate = min(self.rate, self.spec.ceiling)
        self._lowered_at = self._raised_at = now
        self._beyond_since = None
        return True

    def _floor(self, stated: float | None) -> float:
        if self.spec.floor is not None:
            return self.spec.floor
        return min(LOWEST, self.spec.ceiling or LOWEST, LOWEST if stated is None else stated * LOWEST_SHARE)

    def _pause(self, now: float, wait: float | None) -> bool:
        if wait is None:
            return False
        until = now + min(wait, self.spec.longest_pause)
        longer = self.until is None or until > self.until + 1
        self.until = max(until, self.until or 0.0)
        return longer

    def over(self, now: float) -> bool:
        """Whether a pause has just ended."""
        if self.until is None or now < self.until:
            return False
        self.until, self._raised_at, self._lowered_at = None, now, now
        return True

    def taken(self, now: float) -> bool:
        """Messages were accepted at this rate. Returns whether it has changed."""
        if self.rate is None or self.until is not None:
            return False
        interval = max(LEAST_SAMPLE, 1 / self.rate)
        if now - self._raised_at < interval:
            return False
        # time in which nothing was sent has proved nothing
        self.rate += self._slope(now) * min(now - self._raised_at, 2 * interval)
        self._raised_at = now
        self._settle()
        return True

    def _slope(self, now: float) -> float:
        """Recipients a second, a second."""
        assert self.rate is not None
        recover = self.spec.recover
        slope = self._knee / recover
        if self.rate <= self._knee:
            return slope
        if self._beyond_since is None:
            self._beyond_since = now
        doublings = min((now - self._beyond_since) / (recover * DOUBLINGS), 30)
        return float(min(slope * 2**doublings, max(self._top / (recover * DOUBLINGS), slope)))

    def _settle(self) -> None:
        """As far as it goes: to the ceiling, or to where it began, and then the limit is lifted."""
        assert self.rate is not None
        if self.spec.ceiling is not None:
            self.rate = min(self.rate, self.spec.ceiling)
            if self.spec.ceiling < self._top:
                return
        if self.rate >= self._top:
            self.rate = None


class Places:
    """How many connections somebody lets us have; `most` is what is configured."""

    def __init__(self, spec: AdaptiveSpec, most: int) -> None:
        self.most, self.limit = most, most
        self._every = max(spec.recover / 10, LEAST_SAMPLE)
        self._changed_at = -1e9

    def refused(self, now: float, working: int) -> bool:
        """One more than `working` was too many."""
        limit = max(1, min(self.limit, working))
        changed, self.limit = limit < self.limit, limit
        self._changed_at = now
        return changed

    def taken(self, now: float) -> bool:
        """Messages were accepted. Returns whether there may be one more."""
        if self.limit >= self.most or now - self._changed_at < self._every:
            return False
        self.limit, self._changed_at = self.limit + 1, now
        return True

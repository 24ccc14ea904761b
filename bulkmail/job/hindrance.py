"""What keeps a running job from being faster, as far as its own figures tell at this moment."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bulkmail.job.pacing import JOB, Pacing
from bulkmail.job.stock import Stock, Stocks
from bulkmail.pool.lane import Lane
from bulkmail.pool.limits import OWN, Limit

BUSY = 0.85  # of a processor: the loop's thread has nothing to spare beyond
LEAST_SAMPLE = 0.2  # seconds: a shorter time says nothing of a thread


class Hindrance:
    """Made on the loop's thread, and asked there. Costs nothing until it is asked."""

    def __init__(self, pacing: Pacing, stocks: Stocks, lanes: list[Lane]) -> None:
        self._pacing, self._stocks, self._lanes = pacing, stocks, lanes
        self._loop = asyncio.get_running_loop()
        self._sampled = (self._loop.time(), time.thread_time())
        self._share = 0.0

    def now(self) -> dict[str, Any] | None:
        """{"by", "scope", "until", "why"}, each but the first only where it is known; None: nothing in particular.

        by  "retries": all who are left wait for their next attempt, until (Unix seconds); "relays": none can be
            reached, why; "rate" or "connections" of a scope, or who else put a cap on it ("window"...); "signing";
            "cpu": this process; "answers": the relays' are awaited on all connections
        """
        self._sample()
        lanes = [lane for lane in self._lanes if lane.pool.dead is None]
        return self._waiting() or _unreachable(lanes) or self._limited(lanes) or self._working(lanes)

    def _waiting(self) -> dict[str, Any] | None:
        if any(stock.left() or stock.under_way() for stock in self._stocks):
            return None
        due = min((stock.due for stock in self._stocks if stock.due is not None), default=None)
        return {"by": "retries", "until": due} if due is not None else None

    def _limited(self, lanes: list[Lane]) -> dict[str, Any] | None:
        """By limits of the job, or of each relay and egress, or of the domains of all who are left."""
        now = self._loop.time()
        holding = [scope for scope in self._pacing.scopes() if self._pacing.limit(scope).wait(now) > 0]
        if JOB in holding:
            return self._of(JOB)
        if lanes and all(self._pacing.wait(lane) > 0 for lane in lanes):
            return self._of(next((scope for scope in holding if not scope.startswith("domain ")), JOB))
        left = [stock for stock in self._stocks if stock.left()]
        if left and all(stock.parked for stock in left):
            return self._of_domains(left[0])
        return None

    def _of(self, scope: str) -> dict[str, Any]:
        limit = self._pacing.limit(scope)
        return {"by": _by_whom(limit), "scope": scope, "rate": limit.rate}

    def _of_domains(self, stock: Stock) -> dict[str, Any] | None:
        for scope in self._pacing.scopes():
            limit = self._pacing.limit(scope)
            if limit is stock.limit and scope.startswith("domain "):
                rated = limit.wait(self._loop.time()) > 0
                return self._of(scope) if rated else {"by": "connections", "scope": scope}
        return None

    def _working(self, lanes: list[Lane]) -> dict[str, Any] | None:
        ready = any(lane.ready() for lane in lanes if not self._pacing.wait(lane))
        if ready and any(stock.signing for stock in self._stocks) and not any(stock.ready for stock in self._stocks):
            return {"by": "signing"}
        if self._share >= BUSY:
            return {"by": "cpu"}
        return {"by": "answers"} if not ready and any(lane.under_way for lane in lanes) else None

    def _sample(self) -> None:
        """How busy this thread was since it was asked last."""
        now, used = self._loop.time(), time.thread_time()
        before, used_before = self._sampled
        if now - before >= LEAST_SAMPLE:
            self._share = (used - used_before) / (now - before)
            self._sampled = (now, used)


def _unreachable(lanes: list[Lane]) -> dict[str, Any] | None:
    if lanes and all(lane.out and not lane.sessions for lane in lanes):
        return {"by": "relays", "why": str(lanes[0].last_error)}
    return None


def _by_whom(limit: Limit) -> str:
    """ "rate" for what manifest or operator say, else the name of the cap that is least."""
    caps = limit.caps()
    name = min(caps, key=lambda one: caps[one], default=OWN)
    return "rate" if name == OWN else name

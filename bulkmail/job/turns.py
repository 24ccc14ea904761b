"""Whose turn it is among the relays of a job: each has its share, as the weights say, of what is sent.

A relay that is ahead of its share waits for the others. Without weights it waits only for those that have room at that
moment, so that each carries what it can; weights are kept at the speed of the slower one too. Nobody waits for a relay
that cannot take anything: one that is out, has no work here, may not by its limits, or has taken nothing for
STALL_SECONDS while others waited.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from bulkmail.job.breaker import ON_TRIAL
from bulkmail.job.relay import Relay
from bulkmail.pool.lane import NO_LIMIT
from bulkmail.pool.limits import Alarm
from bulkmail.pool.weights import Weights

STALL_SECONDS: Final = 3.0
# Transactions by which a relay may be ahead of its share: a part of what is left, so that few come out even too.
MOST_AHEAD: Final = 32.0
LEAST_AHEAD: Final = 1.0
PART_AHEAD: Final = 1 / 32


class Turns:
    """can_take: whether a relay has work here and its limits allow some; left: how many transactions are left."""

    def __init__(
        self,
        relays: list[Relay],
        can_take: Callable[[Relay], bool],
        left: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self._relays, self._can_take, self._left, self._wake = relays, can_take, left, wake
        self._places = {relay: place for place, relay in enumerate(relays)}
        self._parts = [relay.spec.weight or 1 for relay in relays]
        self._strict = any(relay.spec.weight is not None for relay in relays)
        self._weights = Weights(self._parts)
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, wake)
        self._sharing = [True] * len(relays)
        self._stalled: set[Relay] = set()
        self._ahead: set[Relay] = set()  # too far; they go on when it is half as far, so that they take several then
        self._waiting_since: float | None = None  # somebody waits, and nobody has taken anything

    def room(self, relay: Relay, room: int, now: float) -> int:
        """How many of `room` transactions this relay may take now."""
        if len(self._relays) == 1 or not room:
            return room
        others = [one for one in self._relays if one is not relay and self._is_in(one, now)]
        self._sharing = [one is relay or one in others for one in self._relays]
        allowed = self._allowed(relay, others)
        if allowed > 0:
            return min(room, allowed)
        return room if self._waited_long(others, now) else 0

    def took(self, relay: Relay, count: int) -> None:
        """So many transactions, right after room() was asked."""
        if len(self._relays) == 1 or not count:
            return
        given = [0] * len(self._relays)
        given[self._places[relay]] = count
        self._weights.charge(given, self._sharing)
        self._stalled.discard(relay)
        if self._waiting_since is not None:
            self._waiting_since = None
            self._wake()

    def _is_in(self, relay: Relay, now: float) -> bool:
        """Whether it is to be waited for."""
        if not self._strict and not any(lane.ready() for lane in relay.pool.lanes):
            return False
        if relay in self._stalled or not relay.breaker.room(1):
            return False
        return relay.reachable(now) and self._can_take(relay)

    def _allowed(self, relay: Relay, others: list[Relay]) -> int:
        """How many it may take until it is too far ahead. A trial goes first: it is one transaction."""
        if not others or relay.breaker.state == ON_TRIAL:
            return NO_LIMIT
        if any(one.breaker.state == ON_TRIAL for one in others):
            return 0
        place = self._places[relay]
        ahead = max(LEAST_AHEAD, min(MOST_AHEAD, self._left() * PART_AHEAD))
        owed = self._weights.owed(place)
        if relay in self._ahead and owed < -ahead / 2:
            return 0
        total = sum(part for part, sharing in zip(self._parts, self._sharing, strict=True) if sharing)
        allowed = math.ceil((owed + ahead) / (1 - self._parts[place] / total))
        (self._ahead.discard if allowed > 0 else self._ahead.add)(relay)
        return allowed

    def _waited_long(self, others: list[Relay], now: float) -> bool:
        if self._waiting_since is None:
            self._waiting_since = now
        left = self._waiting_since + STALL_SECONDS - now
        if left > 0:
            self._alarm.ring_in(left)  # also if it was set before: it rings at the earliest of its times only
            return False
        self._stalled.update(others)
        self._waiting_since = None
        return True

"""What the limits of the job, its relays, their egresses and the recipients' domains allow, and who may change them.

A limit has a scope: "job", "relay NAME", "egress NAME" or "domain PATTERNS" (as in the manifest, joined by commas).
Several have a say in one: what the manifest or its operator states (`change`), and caps by name (`cap`): the least
holds, so that nobody undoes what another has said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from bulkmail.errors import ConfigError
from bulkmail.job.relay import Relay
from bulkmail.job.specs import DomainLimit
from bulkmail.pool.domains import ELSEWHERE, LimitMap
from bulkmail.pool.lane import Lane
from bulkmail.pool.limits import OWN, Alarm, Limit
from bulkmail.urlparts import listed, quoted

JOB: Final = "job"
KEEP: Final[Any] = object()  # a value that is not to be changed

Limits = tuple[Limit, ...]


class Pacing:
    """limit: the job's; relays: each with its own; connections: the job's, or None; domains: the groups' limits.

    wake     called when somebody had to wait and may need to no more
    changed  called when a limit has changed: whether less is allowed than before, so that what sessions hold and have
             not begun is to be taken back
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: Limit,
        relays: list[Relay],
        wake: Callable[[], None],
        changed: Callable[[bool], None],
        *,
        connections: int | None = None,
        domains: Iterable[DomainLimit] = (),
    ) -> None:
        self._loop, self._limit, self._relays = loop, limit, relays
        self._on_change = changed
        self._alarm = Alarm(loop, wake)
        self._groups: dict[str, Limit] = {}  # by pattern
        self._scopes: dict[str, Limit] = {JOB: limit}
        self._connections: dict[str, dict[str, int]] = {}  # by scope: by whose word
        if connections is not None:
            self._connections[JOB] = {OWN: connections}
        for group in domains:
            scope = f"domain {','.join(group.patterns)}"
            made = self._scopes[scope] = limit_of(group)
            self._groups |= dict.fromkeys(group.patterns, made)
            if group.connections is not None:
                self._connections[scope] = {OWN: group.connections}
        self._patterns = LimitMap(self._groups)
        self._scopes |= {f"relay {relay.name}": relay.limit for relay in relays}
        self._by_lane: dict[Lane, Limits] = {}
        self._together: dict[tuple[Lane, Limit], Limits] = {}
        self._relay_of: dict[Lane, Relay] = {}

    def start(self) -> None:
        """The pools are made, and no limit changes before. An egress of several relays has one limit."""
        for relay in self._relays:
            for lane in relay.pool.lanes:
                self._relay_of[lane] = relay
                if lane.egress is not None:
                    scope = f"egress {lane.egress.name}"
                    lane.pace = self._scopes.setdefault(scope, lane.pace)
                    if lane.egress.max_connections is not None:
                        self._connections[scope] = {OWN: lane.egress.max_connections}
        self._share_connections()
        self._refresh()

    # -- who may change what

    def scopes(self) -> list[str]:
        """ "job", then those of relays, egresses and domains."""
        return list(self._scopes)

    def limit(self, scope: str) -> Limit:
        """raises  ConfigError  for a scope that there is not"""
        try:
            return self._scopes[scope]
        except KeyError:
            known = listed(map(quoted, self._scopes))
            raise ConfigError(f"there is no limit {quoted(scope)} in this job, expected one of {known}") from None

    def change(
        self, scope: str, *, rate: float | None = KEEP, burst: int | None = KEEP, connections: int | None = KEEP
    ) -> None:
        """What manifest or operator say, from now on. rate: a second; None: no limit; 0: nothing leaves.

        Windows of time across the change have at most the integral of the rate and the larger burst.
        """
        limit, less = self.limit(scope), False
        if burst is not KEEP or rate is not KEEP:
            now = self._loop.time()
            own = limit.caps().get(OWN)
            less = limit.change(own if rate is KEEP else rate, now, limit.own_burst if burst is KEEP else burst)
        if connections is not KEEP:
            self._say_connections(scope, OWN, connections)
        self._changed(less)

    def cap(
        self,
        scope: str,
        name: str,
        *,
        rate: float | None = KEEP,
        connections: int | None = KEEP,
        until: float | None = None,
    ) -> None:
        """At most this, says `name` ("window", "ramp", "adaptive"...). None: it has no say any more.

        rate   a second; 0: nothing leaves, until the loop's time `until`, if that is known: nobody looks before
        """
        limit, less = self.limit(scope), False
        if rate is not KEEP:
            less = limit.cap(name, rate, self._loop.time(), until)
        if connections is not KEEP:
            self._say_connections(scope, name, connections)
        self._changed(less)

    def connections(self, scope: str) -> int | None:
        """How many are allowed now; None: no limit but others'."""
        return min(self._connections.get(scope, {}).values(), default=None)

    def said_connections(self, scope: str, name: str) -> int | None:
        """How many `name` allows: OWN is what manifest or operator say."""
        return self._connections.get(scope, {}).get(name)

    def _say_connections(self, scope: str, name: str, count: int | None) -> None:
        said = self._connections.setdefault(scope, {})
        if count is None:
            said.pop(name, None)
        else:
            said[name] = count
        kind, _, which = scope.partition(" ")
        if kind == "domain":
            self.limit(scope).connections = self.connections(scope) or 0
        elif kind == "egress":
            for lane in self._relay_of:
                if lane.egress is not None and lane.egress.name == which:
                    lane.most = self.connections(scope)
                    lane.pool.resize(lane.pool.limit)
        else:
            self._share_connections()

    def _share_connections(self) -> None:
        wanted = [self.connections(f"relay {relay.name}") or relay.spec.connections for relay in self._relays]
        for relay, count in zip(self._relays, shares_of(self.connections(JOB), wanted), strict=True):
            if count != relay.pool.limit:
                relay.pool.resize(count)

    def _changed(self, less: bool) -> None:
        self._refresh()
        self._on_change(less)

    def _refresh(self) -> None:
        """Work out again which limits hold for what."""
        self._together.clear()
        groups = any(limit.limited for limit in self._groups.values())
        for lane, relay in self._relay_of.items():
            every = (self._limit, relay.limit, lane.pace)
            self._by_lane[lane] = tuple(limit for limit in every if limit.rate is not None)
            lane.counted = groups or bool(self._by_lane[lane])

    # -- what is allowed

    def group(self, route: str) -> Limit | None:
        """The limit of the group that a route's domains belong to, whether or not it limits them now."""
        return self._groups.get(self._patterns.covering(route)) or self._groups.get(ELSEWHERE)

    def limits(self, lane: Lane, group: Limit | None) -> Limits:
        """Those that hold for what this egress carries to a group of domains."""
        mine = self._by_lane[lane]
        if group is None or not group.limited:
            return mine
        found = self._together.get((lane, group))
        if found is None:
            found = self._together[lane, group] = (*mine, group)
        return found

    def allows(self, lane: Lane) -> bool:
        """Whether job, relay and egress would let one more leave now; if not, the alarm is set."""
        wait = self.wait(lane)
        if wait > 0:
            self._alarm.ring_in(wait)
        return wait <= 0

    def wait(self, lane: Lane, count: int = 1, now: float | None = None) -> float:
        """Seconds until job, relay and egress let `count` more leave.

        now: when it was found that they do not. The clock may have moved on since, and nobody would be woken then.
        """
        now = self._loop.time() if now is None else now
        return max((limit.wait(now, count) for limit in self._by_lane[lane]), default=0.0)

    def ring_in(self, seconds: float) -> None:
        """Wake the pools then, or before."""
        self._alarm.ring_in(seconds)

    def rate(self) -> float | None:
        """What job and relays together allow a second, or None."""
        together = _sum(relay_rate(relay) for relay in self._relays if relay.usable)
        return min((rate for rate in (self._limit.rate, together) if rate is not None), default=None)


def limit_of(group: DomainLimit) -> Limit:
    return Limit(group.rate.per_second if group.rate else None, group.burst, group.connections or 0)


def shares_of(total: int | None, wanted: list[int]) -> list[int]:
    """The job's connections dealt out to its relays: what each wants, scaled down to `total`, at least one each."""
    if total is None or sum(wanted) <= total:
        return wanted
    given, every = [1] * len(wanted), sum(wanted)
    for _ in range(total - len(wanted)):
        given[max(range(len(given)), key=lambda place: total * wanted[place] / every - given[place])] += 1
    return given


def relay_rate(relay: Relay) -> float | None:
    """What the relay and its egresses together allow a second, or None."""
    together = _sum(lane.pace.rate for lane in relay.pool.lanes)
    return min((rate for rate in (relay.limit.rate, together) if rate is not None), default=None)


def _sum(rates: Iterable[float | None]) -> float | None:
    """None where one of them is no limit."""
    known = list(rates)
    return None if None in known else sum(rate for rate in known if rate is not None)

"""A day of a job, on the virtual clock: hours, a ramp, limits by domain, deferrals, greylisting, a receiver that takes
no more than so much, and a relay that dies for an hour. What the receiving side saw is the result.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from bulkmail.errors import ConnectError
from bulkmail.job.calendar import Calendar, Window
from bulkmail.job.ramp import Ramp
from bulkmail.job.specs import AdaptiveSpec, ClassRetry, DomainLimit, RampSpec, RetrySpec
from bulkmail.values import parse_rate
from unit.job.simulation import DROP, START, FakeRelay, Simulation, filled_by_route

HOUR = 3600.0
BEGIN = 9 * HOUR + 46 * 60 + 40  # of the simulation's clock at 08:00 UTC: it begins at 22:13:20
DAY = 24 * HOUR
# Recipients by domain; limits of their groups a second.
ROUTES = {"gmail.com": 8000, "slow.test": 4000, "grey.test": 1000, "*": 11_000}
LIMITS = {"gmail.com": 0.5, "grey.test": 1.0}
CAPACITY = 0.2  # a second, of slow.test, which says so by refusals only
RAMP = RampSpec(0.2, 2.0, 2 * HOUR)
WINDOWS = ((8.0, 13.0), (14.0, 20.0))
DEAD = (BEGIN + 3 * HOUR, BEGIN + 4 * HOUR)  # the first relay's hour


def open_windows() -> list[tuple[float, float]]:
    """(from, to) of two days, in seconds of the run."""
    midnight = BEGIN - 8 * HOUR
    return [(midnight + day * DAY + a * HOUR, midnight + day * DAY + b * HOUR) for day in (0, 1) for a, b in WINDOWS]


@dataclass
class Day:
    """taken: (seconds of the run, domain) of every message that a relay took; named: of every recipient named."""

    named: list[tuple[float, str]] = field(default_factory=list)
    taken: list[tuple[float, str]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    simulation: Simulation = None  # type: ignore[assignment]

    def run(self) -> Day:
        self._seen: Counter[str] = Counter()
        self._draw = random.Random(8)
        self._level, self._at = 5.0, 0.0
        groups = [DomainLimit((name,), parse_rate(f"{rate}/s", "rate")) for name, rate in LIMITS.items()]
        relays = [
            FakeRelay("main", "smtp://main.test?connections=10", latency=0.05, patience=4 * HOUR),
            FakeRelay("spare", "smtp://spare.test?connections=10", latency=0.05, patience=4 * HOUR),
        ]
        window = [Window(int(a * 60), int(b * 60), ZoneInfo("UTC")) for a, b in WINDOWS]
        retry = RetrySpec((900.0,) * 12, 2 * DAY, classes={"greylisted": ClassRetry((300.0, 900.0, 3600.0))})
        self.simulation = Simulation(
            0,
            *relays,
            ledger=filled_by_route(ROUTES),
            answer=self._answer,
            domains=[*groups, DomainLimit(("slow.test",))],
            calendar=Calendar(window, START + 3600.0),
            ramp=Ramp(RAMP),
            adaptive=AdaptiveSpec(floor=CAPACITY / 4),  # it takes less than the usual floor
            retry=retry,
            turns=1_000_000,
        )
        self.simulation.run().checked()
        return self

    def _answer(self, relay: str, phase: str, about: Any) -> Any:
        now = self.simulation.scheduler._loop.time() - 1000.0
        if relay == "main" and DEAD[0] <= now < DEAD[1]:
            return ConnectError("main.test: connection refused") if phase == "connect" else DROP
        if phase == "dot":
            self.taken.append((now, domain_of(about[0])))
        return self._on_rcpt(now, about) if phase == "rcpt" else None

    def _on_rcpt(self, now: float, address: str) -> bytes | None:
        domain = domain_of(address)
        self.named.append((now, domain))
        self._seen[address] += 1
        said: bytes | None = None
        if domain == "grey.test" and self._seen[address] == 1:
            said = b"450 4.2.0 Greylisted for 5 minutes"
        elif domain == "slow.test" and not self._room(now):
            said = b"421 4.7.0 rate limit exceeded" if self._draw.random() < 0.2 else b"450 4.7.1 rate limit exceeded"
        elif self._draw.random() < 0.01:
            said = b"451 4.3.0 temporary trouble"
        if said is not None:
            self.refused[domain] += 1
        return said

    def _room(self, now: float) -> bool:
        self._level, self._at = min(5.0, self._level + (now - self._at) * CAPACITY), now
        if self._level < 1:
            return False
        self._level -= 1
        return True


_edges: list[tuple[int, str]] = []
_last = 0
for _name, _count in ROUTES.items():
    _last += _count
    _edges.append((_last, _name))


def domain_of(address: str) -> str:
    """The ledger's rows follow each other by route."""
    number = int(address[4:].split("@")[0])
    return next(name for last, name in _edges if number <= last)

"""Limits of job, relays, egresses and domains at once: none is broken, and none holds up what it is not for."""

from __future__ import annotations

import asyncio
import math
import os
import random
from bisect import bisect_right
from collections import defaultdict

import pytest

from bulkmail.egress import Egress
from bulkmail.job.specs import DomainLimit
from bulkmail.job.stock import COMMIT_RECIPIENTS
from bulkmail.values import parse_rate
from unit.job.simulation import FakeRelay, Simulation, filled_by_route

EXAMPLES = max(4, int(os.environ.get("BULKMAIL_FUZZ_EXAMPLES", "40")) // 5)


def rate(text: str | None):
    return parse_rate(text, "the rate") if text else None


def limits(**by_pattern: tuple[str | None, int | None, int | None]) -> list[DomainLimit]:
    """a="20/s", or (rate, burst, connections) of domain a.test."""
    return [DomainLimit((f"{name}.test",), rate(text), burst, most) for name, (text, burst, most) in by_pattern.items()]


class Watched(Simulation):
    """A simulation that knows when MAIL of whom was written, by what."""

    def __init__(self, routes: dict[str, int], *relays: FakeRelay, chunk: int = 1000, **given):
        super().__init__(1, *relays, ledger=filled_by_route(routes, chunk), answer=self._note, **given)
        self.routes, self._ends = list(routes), []
        for count in routes.values():
            self._ends.append((self._ends[-1] if self._ends else 0) + count)
        self.written: dict[str, list[float]] = defaultdict(list)  # by scope

    def _note(self, name, phase, about):
        if phase == "rcpt":
            relay = next(one for one in self.relays if one.name == name)
            # one command at a time: MAIL was written a round trip before
            now = asyncio.get_running_loop().time() - (0 if relay.pipelining else relay.latency)
            route = self.routes[bisect_right(self._ends, int(about[4 : about.index("@")]) - 1)]
            for scope in ("job", f"relay {name}", f"egress {self.by}", f"domain {route}"):
                self.written[scope].append(now)

    def seconds_of(self, scope: str) -> float:
        return max(self.written[scope]) - min(self.written[scope])


def assert_paced(times: list[float], rate: float, burst: int) -> None:
    """Never more than rate x T + burst in any T: the bucket that says so, emptied by time, filled by what left."""
    level, last = 0.0, -math.inf
    for now in sorted(times):
        level = max(0.0, level - rate * (now - last)) + 1
        last = now
        assert level <= burst + 1e-5, (now, level)


def default_burst(rate: float) -> int:
    return max(1, math.floor(rate * 0.1))


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_all_kinds_of_limits_at_once(seed):
    dice = random.Random(seed)
    job, by_egress, by_domain = dice.choice([40, 150]), dice.choice([30, 60]), dice.choice([3.0, 12.0, 40.0])
    egresses = [Egress(name, None, f"127.0.0.{n + 2}", 1, None, rate(f"{by_egress}/s")) for n, name in enumerate("xyz")]
    relays = [
        FakeRelay("one", f"smtp://one.test?rate={job // 2}/s&connections={dice.choice([1, 4, 9])}", egresses=egresses),
        FakeRelay("two", "smtp://two.test?connections=3", egresses=egresses[:1]),
    ]
    for relay in relays:
        relay.latency, relay.pipelining = dice.choice([0.0005, 0.02, 0.3]), dice.random() < 0.7
    routes = {f"{name}.test": dice.choice([5, 60, 200]) for name in "abc"} | {"*": 200}
    groups = [DomainLimit(("a.test", "b.test"), rate(f"{by_domain}/s")), *limits(c=("9/s", 4, 2))]
    simulation = Watched(
        routes, *relays, rate=float(job), domains=groups, chunk=dice.choice([7, 1000]), shared=seed % 4 == 0, batch=3
    )
    simulation.run().checked()
    assert simulation.counts["delivered"] == sum(routes.values())
    written = simulation.written
    assert_paced(written["job"], job, default_burst(job))
    assert_paced(written["relay one"], job // 2, default_burst(job // 2))
    for way in egresses:
        assert_paced(written[f"egress {way.name}"], by_egress, default_burst(by_egress))
    assert_paced(written["domain a.test"] + written["domain b.test"], by_domain, default_burst(by_domain))
    assert_paced(written["domain c.test"], 9, 4)


@pytest.mark.parametrize(("job", "latency"), [(15.0, 0.01), (50.0, 0.2), (400.0, 0.02), (3000.0, 0.005)])
def test_at_least_98_percent_of_a_rate_is_used(job, latency):
    count = int(job * min(20, 8000 / job))
    simulation = Watched({"*": count}, FakeRelay(url="smtp://relay.test?connections=40", latency=latency), rate=job)
    simulation.run().checked()
    assert_paced(simulation.written["job"], job, default_burst(job))
    assert count / (simulation.seconds_of("job") + 1 / job) >= 0.98 * job


def test_how_long_to_wait_is_said_for_the_moment_of_the_refusal():
    """A moment later it may be nothing, and then nobody would wake whoever was refused."""
    simulation = Watched({"*": 1}, rate=10.0).run()
    pacing, lane = simulation.scheduler.pacing, simulation.scheduler.relays[0].pool.lanes[0]
    pacing.limit("job").grant(1, 5000.0)
    assert pacing.wait(lane, 1, 5000.0) == pytest.approx(0.1)


def test_every_domain_of_two_hundred_gets_its_rate():
    names = [f"d{n}" for n in range(200)]
    simulation = Watched(
        {f"{name}.test": 40 for name in names},
        FakeRelay(url="smtp://relay.test?connections=20", latency=0.005),
        domains=limits(**dict.fromkeys(names, ("5/s", None, None))),
        on_event=False,
    )
    simulation.run().checked()
    for name in names:
        assert_paced(simulation.written[f"domain {name}.test"], 5, 1)
        assert simulation.seconds_of(f"domain {name}.test") <= 39 / 5 / 0.97


# -- what is limited holds up nobody


def alone(count: int) -> float:
    simulation = Watched({"*": count}, FakeRelay(url="smtp://relay.test?connections=10", latency=0.01))
    return simulation.run().seconds_of("job")


@pytest.mark.parametrize(
    ("limited", "text"),
    [({"slow.test": 3}, "1/h"), ({"slow.test": 5000}, "200/s"), ({f"s{n}.test": 20 for n in range(100)}, "2/s")],
    ids=["one at 1/h", "most of a sorted list", "a hundred"],
)
def test_the_others_go_on_at_full_speed(limited, text):
    groups = [DomainLimit((name,), rate(text)) for name in limited]
    simulation = Watched(
        limited | {"*": 6000}, FakeRelay(url="smtp://relay.test?connections=10", latency=0.01), domains=groups
    )
    simulation.run().checked()
    assert simulation.counts["delivered"] == sum(limited.values()) + 6000
    # They share the connections with what of the limited ones goes out meanwhile.
    share = sum(count for count in limited.values() if text != "1/h") / 6000
    assert simulation.seconds_of("domain *") <= alone(6000) * (1 + min(share, 0.6)) + 0.2


def test_what_is_in_hand_is_bounded_however_many_domains_wait():
    names = [f"d{n}" for n in range(150)]
    held, chunks = [], []

    def look():
        stocks = list(simulation.scheduler._stocks)
        held.append(sum(stock.held() for stock in stocks))
        chunks.append(sum(len(stock.works) for stock in stocks))

    simulation = Watched(
        {f"{name}.test": 300 for name in names} | {"*": 10_000},
        FakeRelay(url="smtp://relay.test?connections=10", latency=0.01),
        domains=limits(**dict.fromkeys(names, ("60/s", None, None))),
        chunk=50,
        on_event=False,
        at=[(n / 50, look) for n in range(1, 150)],
    )
    simulation.run().checked()
    assert max(held) <= COMMIT_RECIPIENTS + len(names)
    assert max(chunks) <= 4 * len(names)


def test_a_number_of_connections_of_a_domain_is_kept():
    most = [0]

    def look():
        held = [tx for tx in simulation.handed if tx.state == 0 and tx.tag.chunk.route == "a.test"]
        most[0] = max(most[0], len(held))

    simulation = Watched(
        {"a.test": 300, "*": 300},
        FakeRelay(url="smtp://relay.test?connections=20", latency=0.05),
        domains=limits(a=(None, None, 3)),
        at=[(n / 100, look) for n in range(1000)],
    )
    simulation.run().checked()
    assert most[0] == 3
    assert simulation.seconds_of("domain *") < 2 < simulation.seconds_of("domain a.test")


# -- changed while it runs


def test_a_limit_that_is_closed_for_a_time_lets_nothing_leave_and_opens_again():
    simulation = Watched({"*": 3000}, FakeRelay(url="smtp://relay.test?connections=10", latency=0.01), rate=200.0)
    rung = []

    def close():
        pacing, loop = simulation.scheduler.pacing, asyncio.get_running_loop()
        pacing.cap("job", "window", rate=0, until=loop.time() + 7200)
        loop.call_later(7200, lambda: pacing.cap("job", "window", rate=None))
        simulation.closed = loop.time()
        wake = simulation.scheduler.wake_pools
        simulation.scheduler.wake_pools = lambda: (rung.append(1), wake())

    simulation.at = [(5.0, close)]
    simulation.run().checked()
    times, closed = sorted(simulation.written["job"]), simulation.closed
    assert not [time for time in times if closed < time < closed + 7199.99]
    assert 900 <= sum(time <= closed for time in times) <= 1020
    assert 7200 + 14.8 <= simulation.seconds <= 7200 + 15.5
    assert len(rung) < 5000


def test_a_job_without_limits_can_be_given_some_and_they_hold_at_once():
    simulation = Watched({"*": 4000, "a.test": 200}, FakeRelay(url="smtp://relay.test?connections=10", latency=0.05))

    def slow_down():
        simulation.scheduler.pacing.change("job", rate=50.0)
        simulation.changed = asyncio.get_running_loop().time()

    simulation.at = [(0.5, slow_down)]
    simulation.run().checked()
    later = [time for time in simulation.written["job"] if time > simulation.changed]
    assert len(later) > 500
    assert_paced(later, 50.0, 5)


def test_connections_are_changed_while_it_runs():
    relay = FakeRelay(url="smtp://relay.test?connections=12", latency=0.05)
    simulation, seen = Watched({"*": 4000}, relay), []
    simulation.at = [
        (1.0, lambda: simulation.scheduler.pacing.change("job", connections=3)),
        (3.0, lambda: seen.append(sum(relay.open.values()))),
        (3.5, lambda: simulation.scheduler.pacing.cap("relay main", "adaptive", connections=1)),
        (5.0, lambda: seen.append(sum(relay.open.values()))),
        (5.5, lambda: simulation.scheduler.pacing.cap("relay main", "adaptive", connections=None)),
        (7.0, lambda: seen.append(sum(relay.open.values()))),
    ]
    simulation.run().checked()
    assert seen == [3, 1, 3]


def test_scopes_name_what_can_be_limited():
    way = Egress("x", None, "127.0.0.2", 1, None, rate("5/s"))
    simulation = Watched({"*": 1}, FakeRelay(egresses=[way]), domains=limits(a=("5/s", None, None))).run()
    assert simulation.scheduler.pacing.scopes() == ["job", "domain a.test", "relay main", "egress x"]

"""A job with everything at once, made from a number: relays, limits, calendar, answers, outages, an operator, stops.

`Case(seed)` is drawn; `check()` runs it, over as many runs of the scheduler on one ledger as its stops and kills make,
and holds what the relays saw against the ledger. A case that fails is made smaller by hand: `Case(seed, ramp=None)`.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

from bulkmail.egress import Egress
from bulkmail.errors import AuthError, BulkmailError, ConnectError
from bulkmail.job.calendar import Calendar, Window
from bulkmail.job.ledger import DEFERRED, DELIVERED, FAILED, IN_DOUBT, MOVED, NONE, RESENT, Part, PartChunk
from bulkmail.job.memory_ledger import MemoryLedger
from bulkmail.job.ramp import Ramp
from bulkmail.job.specs import AdaptiveSpec, ClassRetry, DomainLimit, RampSpec, RetrySpec, StopRule
from bulkmail.job.stock import COMMIT_RECIPIENTS, SHARED_AHEAD
from bulkmail.job.stop_rules import StoppedByRule
from bulkmail.pool.limits import OWN
from bulkmail.values import parse_rate
from bulkmail.wire.reply import Reply
from unit.job.journal_tools import rows
from unit.job.simulation import DROP, DROP_TAKEN, START, Answer, FakeRelay, Simulation, filled_by_route
from unit.job.virtual_loop import Stalled

LONGEST = 4 * 86_400.0  # seconds that the runs of a case may last together
RUNS = 12
ROUTES = ("*", "gmail.com", "slow.test", "*.grey.test")
REPLIES: dict[str, tuple[bytes, ...]] = {
    "mail": (b"451 4.3.0 later", b"421 4.3.2 closing", b"450 4.7.1 too fast, try again in 5 minutes", b"550 5.7.1 no"),
    "rcpt": (
        b"450 4.2.0 Greylisted for 5 minutes",
        b"451 4.7.1 rate limit exceeded",
        b"550 5.1.1 unknown",
        b"452 4.5.3 too many recipients",
        b"421 4.7.0 try again later",
        b"554 5.7.1 blocked",
        b"421 4.7.0 too many connections",
    ),
    "data": (b"451 4.3.0 later", b"421 4.3.2 closing", b"554 5.5.1 no valid recipients", b"550 5.7.1 content"),
    "dot": (b"451 4.3.0 filter", b"552 5.2.3 too large", b"421 4.4.2 timeout", b"450 4.7.1 try again in 10 minutes"),
}


class Killed(BulkmailError):
    """The process is no more: the scheduler is thrown away."""


class Case:
    """changes: attributes in place of those that are drawn."""

    def __init__(self, seed: int, **changes: Any) -> None:
        self.seed = seed
        draw = self._draw = random.Random(seed)
        self.routes = self._routes()
        self.shared = draw.random() < 0.25
        self.batch = draw.choice((2, 7, 40)) if self.shared else 1
        self.chunk = draw.choice((1, 7, 50, 1000))
        self.relays = self._relays()
        self.rate = self._sometimes(0.3, lambda: draw.choice((0.2, 2.0, 15.0, 120.0)))
        self.connections = self._sometimes(0.3, lambda: draw.randint(1, 12))
        self.domains = self._domains()
        self.ramp = self._sometimes(0.2, lambda: RampSpec(draw.choice((0.1, 1.0)), draw.choice((5.0, 50.0)), 600.0))
        self.calendar = self._sometimes(0.2, self._calendar)
        self.adaptive = self._sometimes(0.5, lambda: AdaptiveSpec(recover=draw.choice((20.0, 600.0))))
        self.retry = self._retry()
        self.stop_if = [StopRule("failed", 0.2, True, 20)] if draw.random() < 0.05 else []
        self.commit_seconds = draw.choice((0.0, 0.001, 0.02, 0.3))
        self.trouble = {relay["name"]: self._trouble() for relay in self.relays}
        self.outages = [self._outage() for _ in range(draw.choice((0, 0, 0, 1, 2)))]
        self.bad = sorted(draw.sample(range(1, self.recipients + 1), min(3, self.recipients))) * (draw.random() < 0.2)
        self.orders = [self._order() for _ in range(draw.choice((0, 0, 1, 3, 6)))]
        self.ends = [self._end() for _ in range(draw.choice((0, 0, 1, 2, 5)))]
        self.policy = draw.choice(("skip", "skip", "resend"))
        self.filling = draw.random() < 0.2
        self.on_event = draw.random() < 0.5
        for name, value in changes.items():
            assert hasattr(self, name), name
            setattr(self, name, value)

    @property
    def recipients(self) -> int:
        return sum(self.routes.values())

    def _sometimes(self, share: float, make: Callable[[], Any]) -> Any:
        made = make()  # also where it is not used: what is drawn after it does not depend on it
        return made if self._draw.random() < share else None

    def _routes(self) -> dict[str, int]:
        draw = self._draw
        names = ["*", *draw.sample(ROUTES[1:], draw.choice((0, 0, 1, 2, 3)))]
        return {name: draw.choice((1, 5, 40, 150, 400)) for name in names}

    def _relays(self) -> list[dict[str, Any]]:
        draw, count = self._draw, self._draw.choice((1, 1, 1, 2, 2, 3))
        weighted, found = draw.random() < 0.4, []
        for place in range(count):
            options = [f"connections={draw.choice((1, 2, 5, 20))}"]
            if draw.random() < 0.2:
                options.append(f"rate={draw.choice((1, 10, 60))}/s")
            if draw.random() < 0.2:
                options.append(f"messages_per_connection={draw.choice((1, 3, 20))}")
            name = "abc"[place]
            ways = tuple(self._egress(f"{name}{n}") for n in range(draw.choice((0, 0, 1, 2, 3))))
            pins = {"gmail.com": (ways[0].name,)} if len(ways) > 1 and draw.random() < 0.3 else {}
            found.append(
                {
                    "name": name,
                    "url": f"smtp://{name}.test?{'&'.join(options)}",
                    "latency": draw.choice((0.0005, 0.01, 0.1, 1.0)),
                    "pipelining": draw.random() < 0.8,
                    "chunking": draw.random() < 0.3,
                    "patience": draw.choice((0.0, 5.0, 300.0, 3600.0)),
                    "egresses": ways,
                    "pins": pins,
                    "weight": draw.choice((1, 3)) if weighted else None,
                    "backup": place > 0 and draw.random() < 0.4,
                }
            )
        return found

    def _egress(self, name: str) -> Egress:
        draw = self._draw
        most = draw.choice((1, 3)) if draw.random() < 0.3 else None
        rate = parse_rate(draw.choice(("5/s", "30/s")), "rate") if draw.random() < 0.3 else None
        return Egress(name, weight=draw.choice((1, 1, 4)), max_connections=most, rate=rate)

    def _domains(self) -> list[DomainLimit]:
        draw, found = self._draw, []
        for name in ROUTES[1:]:
            rate = parse_rate(draw.choice(("1/s", "20/s", "30/m")), "rate") if draw.random() < 0.5 else None
            most = draw.choice((1, 2, 5)) if draw.random() < 0.3 else None
            if draw.random() < 0.4:
                found.append(DomainLimit((name,), rate, draw.choice((None, None, 5)) if rate else None, most))
        return found

    def _calendar(self) -> Calendar:
        """The clock begins at 22:13:20 UTC."""
        draw, zone = self._draw, ZoneInfo("UTC")
        opens = 22 * 60 + draw.randrange(60)
        window = Window(opens, (opens + draw.choice((1, 10, 60))) % 1440, zone)
        return Calendar([window, Window(23 * 60, 60, zone)], draw.choice((None, START + 30.0)))

    def _retry(self) -> RetrySpec:
        draw = self._draw
        delays = draw.choice(((), (1.0,), (30.0, 120.0), (60.0, 300.0, 900.0)))
        classes = {"greylisted": ClassRetry((5.0, 60.0))} if draw.random() < 0.3 else {}
        give_up = draw.choice((60.0, 3600.0, 86_400.0))
        relay = draw.choice(("any", "same", "next"))
        return RetrySpec(delays, give_up, jitter=draw.choice((0.0, 0.2)), classes=classes, relay=relay)

    def _trouble(self) -> dict[str, float]:
        """The share of answers that are bad, by phase."""
        draw = self._draw
        if draw.random() < 0.4:
            return {}
        often = draw.choice((0.002, 0.02, 0.1, 0.5))
        return {phase: often for phase in ("connect", *REPLIES) if draw.random() < 0.5}

    def _outage(self) -> tuple[str, float, float]:
        draw = self._draw
        begin = draw.choice((0.0, 0.3, 3.0, 60.0))
        return draw.choice(self.relays)["name"], begin, begin + draw.choice((0.5, 5.0, 120.0, 7200.0))

    def _order(self) -> tuple[float, str, Any]:
        draw = self._draw
        at, what = (
            draw.choice((0.0, 0.05, 0.5, 5.0, 50.0)) * (1 + draw.random()),
            draw.choice(("pause", "rate", "seats")),
        )
        rate, seats = draw.choice((None, 0.5, 5.0, 80.0)), draw.randint(1, 8)
        pause, which = draw.choice((0.01, 1.0, 30.0, 600.0)), draw.randrange(100) * (draw.random() < 0.6)
        return at, what, {"pause": pause, "rate": (which, rate), "seats": (which, seats)}[what]

    def _end(self) -> tuple[str, float]:
        draw = self._draw
        return draw.choice(("stop", "kill", "disk")), draw.choice((0.0, 0.01, 0.2, 2.0, 60.0)) * (1 + draw.random())

    # -- what the relays answer

    def quiet(self, name: str) -> bool:
        """Nothing is wrong with this relay's connections."""
        return not self.trouble[name] and all(name != one for one, *_ in self.outages)

    def calm(self) -> bool:
        """Nothing at all goes wrong, but for who ends the runs."""
        return all(self.quiet(relay["name"]) for relay in self.relays) and not self.bad

    def answer(self, runs: Runs) -> Answer:
        draw = random.Random(self.seed + 1)

        def say(name: str, phase: str, about: Any) -> Any:
            now = runs.now()
            if any(name == one and begin <= now < end for one, begin, end in self.outages):
                return ConnectError("connection refused") if phase == "connect" else DROP
            if draw.random() >= self.trouble[name].get(phase, 0.0):
                return None
            if phase == "connect":
                return _no_connection(draw)
            if draw.random() < 0.2:
                return DROP_TAKEN if phase == "dot" and draw.random() < 0.5 else DROP
            return draw.choice(REPLIES[phase])

        return say


def _no_connection(draw: random.Random) -> BulkmailError | float:
    chance = draw.random()
    if chance < 0.1:
        return draw.choice((1.0, 20.0))
    if chance < 0.2:
        code = draw.choice((454, 454, 535))
        return AuthError("refused the login", reply=Reply(code, ["5.7.8 no"]), command="AUTH")
    return ConnectError("connection refused")


def rows_by_route(routes: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    """(route, first number, how many)."""
    first = 1
    for route, count in routes.items():
        yield route, first, count
        first += count


class Runs:
    """The runs of one case, and what is known of them together."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.taken: Counter[str] = Counter()
        self.doubts: set[int] = set()
        self.seconds = 0.0
        self.simulation: Simulation
        self._parts = self._cut() if case.filling else []
        self._ledger = MemoryLedger() if case.filling else filled_by_route(case.routes, case.chunk)
        self._added = 0
        if case.filling:
            self._ledger.add_part(self._parts.pop(0))

    def now(self) -> float:
        """Seconds since this run began."""
        return self.simulation.scheduler._loop.time() - 1000.0

    def check(self) -> Runs:
        for number in range(RUNS):
            end = self.case.ends[number] if number < len(self.case.ends) else None
            self._run_once(end)
            if self.simulation.error is None and not self._unsettled and not self._parts:
                return self
            if end is None and self._hopeless():
                return self
        raise AssertionError(f"not done after {RUNS} runs: {self.simulation.counts}, {self.simulation.error}")

    def _hopeless(self) -> bool:
        """A relay's trouble ended this run, as it may end the next ones."""
        assert self.simulation.error is not None, f"it ended, and {self._unsettled} are left"
        quiet = any(self.case.quiet(relay["name"]) for relay in self.case.relays)
        assert not quiet or isinstance(self.simulation.error, StoppedByRule), self.simulation.error
        return True

    def _cut(self) -> list[Part]:
        parts = []
        for route, first, count in rows_by_route(self.case.routes):
            for begin in range(first, first + count, 60):
                n = min(60, first + count - begin)
                parts.append(Part([PartChunk(route, rows(begin, n), n, NONE, None)], place="later"))
        parts[-1].place = None
        return parts

    def _run_once(self, end: tuple[str, float] | None) -> None:
        case = self.case
        self._died = False
        relays = [FakeRelay(**relay) for relay in case.relays]
        self.simulation = simulation = Simulation(
            0,
            *relays,
            shared=case.shared,
            batch=case.batch,
            bad=case.bad,
            retry=case.retry,
            stop_if=case.stop_if,
            rate=case.rate,
            connections=case.connections,
            domains=case.domains,
            commit_seconds=case.commit_seconds,
            ledger=self._ledger,
            on_event=case.on_event,
            calendar=case.calendar,
            ramp=Ramp(case.ramp) if case.ramp is not None else None,
            adaptive=case.adaptive,
            turns=10_000_000,
        )
        simulation.answer = case.answer(self)
        simulation.at = [*self._orders(), *self._end(end), (LONGEST, self._too_long), *self._fillings()]
        self._watch(simulation)
        simulation.run()
        self.seconds += simulation.seconds
        self.taken += simulation.taken
        if not self._died:
            simulation.checked()
        self._hold_against_the_relays()
        self._hold_limits()
        counts = self._ledger.counts(live=True)
        self._unsettled = counts.pending + counts.deferred
        self._ledger.restart()
        self._ledger.recover(case.policy)
        for chunk in self._ledger.chunks.values():
            rows = zip(chunk.numbers, chunk.outcome, strict=True)
            self.doubts |= {number for number, byte in rows if byte in (IN_DOUBT, RESENT)}

    def _too_long(self) -> None:
        raise Stalled(f"still at it after {LONGEST} s")

    # -- who does what

    def _orders(self) -> Iterator[tuple[float, Callable[[], None]]]:
        for at, what, value in self.case.orders:
            if what == "pause":
                yield at, lambda: self.simulation.scheduler.pause()
                yield at + value, lambda: self.simulation.scheduler.resume()
            elif what == "rate":
                yield at, lambda value=value: self._change(value[0], rate=value[1])
            else:
                yield at, lambda value=value: self._change(value[0], connections=value[1])

    def _change(self, which: int, **what: Any) -> None:
        """which: of the scopes; 0 is the job's."""
        scheduler = self.simulation.scheduler
        if not scheduler.done.done():
            scopes = scheduler.pacing.scopes()
            scope = scopes[which % len(scopes)]
            scheduler.pacing.change(scope, **what)
            if "rate" in what:
                self._rates[scope].append((self.now() + 1000.0, what["rate"]))
            else:
                self._reseated = True

    def _end(self, end: tuple[str, float] | None) -> list[tuple[float, Callable[[], None]]]:
        if end is None:
            return []
        how, at = end
        return [(at, {"stop": self.simulation.stop, "kill": self._kill, "disk": self._break_disk}[how])]

    def _kill(self) -> None:
        scheduler = self.simulation.scheduler
        if not scheduler.done.done():
            self._died = True
            self.simulation.writer.die()
            self.simulation.ledger.advance = lambda batch: None  # type: ignore[method-assign]
            scheduler.done.set_result(Killed("killed"))

    def _break_disk(self) -> None:
        self._died = True
        self.simulation.writer.fail = lambda number: OSError("the disk is full")

    def _fillings(self) -> Iterator[tuple[float, Callable[[], None]]]:
        for number in range(len(self._parts)):
            yield 0.1 + 0.3 * number, self._add_part

    def _add_part(self) -> None:
        scheduler = self.simulation.scheduler
        if scheduler.stopping or scheduler.done.done():
            return
        part = self._parts.pop(0)
        self._ledger.add_part(part)
        scheduler.tally.add("pending", sum(chunk.n for chunk in part.chunks))
        for chunk in part.chunks:
            scheduler.expect(chunk.route)
        scheduler.leased(False)
        if not self._parts:
            scheduler.filling = False
            scheduler.look_for_end()

    # -- what must hold all the time

    def _watch(self, simulation: Simulation) -> None:
        self._rates: dict[str, list[tuple[float, float | None]]] = {}
        self._reseated = False
        make, ledger = simulation._make_scheduler, simulation.ledger
        advance = type(ledger).advance

        def made() -> None:
            make()
            scheduler = simulation.scheduler
            scheduler.filling = bool(self._parts)
            begin = scheduler.start

            def start() -> None:
                begin()
                for scope in scheduler.pacing.scopes():
                    self._rates[scope] = [(0.0, scheduler.pacing.limit(scope).caps().get(OWN))]

            scheduler.start = start  # type: ignore[method-assign]

        def watched(batch: Any) -> None:
            advance(ledger, batch)
            self._hold_counts()

        simulation._make_scheduler = made  # type: ignore[method-assign]
        ledger.advance = watched  # type: ignore[method-assign]

    def _hold_counts(self) -> None:
        scheduler, ledger = self.simulation.scheduler, self._ledger
        if len(self.simulation.writer.commits) % 10 == 1:  # each would take most of the time
            known = ledger.counts(live=True).recipients
            assert known == scheduler.tally.counts.recipients == len(self._states())
        most = max(COMMIT_RECIPIENTS, SHARED_AHEAD * self.case.batch)
        sessions = sum(len(relay.pool.sessions) for relay in scheduler.relays)
        held = sum(stock.held() for stock in scheduler.stocks)
        assert held <= 2 * most + len(self.case.routes) * 3 * self.case.batch + sessions * 40 * self.case.batch

    def _states(self) -> dict[int, int]:
        """What each recipient is, by number: of all chunks, the one that they have not left."""
        found: dict[int, int] = {}
        for chunk in self._ledger.chunks.values():
            for number, byte in zip(chunk.numbers, chunk.outcome, strict=True):
                if byte not in (MOVED, RESENT):
                    assert number not in found, f"{number} is in two chunks"
                    found[number] = byte
        return found

    # -- what must hold after a run

    def _hold_against_the_relays(self) -> None:
        states = self._states()
        claimed = self._claimed()
        for who, times in self.taken.items():
            number = int(who[4 : who.index("@")])
            state = states[number]
            sure = state in (DELIVERED, IN_DOUBT) or (state == NONE and number in claimed)
            assert sure or number in self.doubts, f"{who} was taken {times} times and is {chr(state)}"
            if self.case.policy == "skip":
                assert times == 1, f"{who} was taken {times} times"
        for number, state in states.items():
            if state == DELIVERED:
                assert self.taken[f"user{number}@example.test"], f"{number} was not taken"
        if not self._died:
            assert DEFERRED not in states.values(), "somebody was left on the way to a retry"
            pools = [relay.pool for relay in self.simulation.scheduler.relays]
            assert not any(pool.connections for pool in pools)
        assert FAILED not in states.values() or self.case.bad or not self.case.calm()

    def _claimed(self) -> set[int]:
        return {number for chunk in self._ledger.chunks.values() for number in chunk.numbers[: chunk.claimed]}

    def _hold_limits(self) -> None:
        scheduler, case = self.simulation.scheduler, self.case
        for scope in scheduler.pacing.scopes():
            limit = scheduler.pacing.limit(scope)
            assert (limit.reserved, limit.under_way) == (0, 0) or self._died, f"{scope}: {limit}"
        routes = {number: route for route, first, n in rows_by_route(case.routes) for number in range(first, first + n)}
        group_of = {one.patterns[0]: f"domain {one.patterns[0]}" for one in case.domains}
        times: dict[str, list[float]] = defaultdict(list)
        for at, relay, egress, who in self.simulation.offers:
            group = group_of.get(routes[int(who[4 : who.index("@")])])
            for scope in ("job", f"relay {relay}", egress and f"egress {egress}", group):
                times[scope or ""].append(at)
        for scope, rates in self._rates.items():
            hold_rate(times[scope], rates, scope, scheduler.pacing.limit(scope).own_burst)
        self._hold_connections()

    def _hold_connections(self) -> None:
        scheduler, case = self.simulation.scheduler, self.case
        for relay, fake in zip(scheduler.relays, self.simulation.relays, strict=True):
            if relay.spec.backup and all(case.quiet(one.name) for one in scheduler.relays):
                assert not fake.opened, "a backup was used while all was well"
            if self._reseated:
                continue
            assert fake.most_open <= relay.spec.connections
            for way in fake.egresses:
                assert fake.most[way.name] <= (way.max_connections or 1000), way.name
        if case.connections is not None and not self._reseated:
            most = max(case.connections, len(case.relays))
            assert self.simulation.most_open <= most, f"{self.simulation.most_open} connections, not {most}"


def hold_rate(times: list[float], rates: list[tuple[float, float | None]], what: str, burst: int | None = None) -> None:
    """Never more in any window than the integral of the rate and the largest burst. rates: (from when, a second)."""
    most = burst or max((max(1, int(rate / 10 + 1e-9)) for _, rate in rates if rate), default=1)
    debt, last, place = 0.0, 0.0, 0
    for time in sorted(times):
        while place + 1 < len(rates) and rates[place + 1][0] <= time:
            debt = _worked_off(debt, rates[place][1], rates[place + 1][0] - last)
            place, last = place + 1, rates[place + 1][0]
        debt, last = _worked_off(debt, rates[place][1], time - last) + 1, time
        assert rates[place][1] is None or debt <= most + 1e-6, f"{what}: {debt} at {time}, not {most}"


def _worked_off(debt: float, rate: float | None, seconds: float) -> float:
    return 0.0 if rate is None else max(0.0, debt - rate * seconds)

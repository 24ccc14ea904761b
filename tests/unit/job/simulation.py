"""A job without network, disk or waiting: the real scheduler, pools and sessions against relays made of bytes.

The loop's clock jumps to the next timer when nothing else is to be done, so a day passes in a moment; where no timer is
left either, the run hangs, and that is a failure (`Stalled`). The ledger is the one in memory; its writer takes
`commit_seconds` of that clock for each commit. What the relays took is the truth that the ledger is held against.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from bulkmail.egress import Egress
from bulkmail.errors import BulkmailError, ConnectError, ConnectionLost, MessageError, TimedOut
from bulkmail.job import leases, notices, outcomes, relay, scheduler, slowing, tally, timing
from bulkmail.job.calendar import Calendar
from bulkmail.job.compose import Composer
from bulkmail.job.ledger import Counts, Ledger
from bulkmail.job.memory_ledger import MemoryLedger
from bulkmail.job.ramp import Ramp
from bulkmail.job.relay import Relay
from bulkmail.job.retry import Retries
from bulkmail.job.scheduler import Scheduler
from bulkmail.job.specs import AdaptiveSpec, DomainLimit, RelaySpec, RetrySpec, StopRule
from bulkmail.job.stop_rules import StopRules
from bulkmail.job.tally import Tally
from bulkmail.job.timing import Plan
from bulkmail.pool import lane as lane_module
from bulkmail.pool.domains import Pins
from bulkmail.pool.lane import Lane
from bulkmail.pool.limits import Limit
from bulkmail.smtp.session import Session, Turn
from bulkmail.url import Endpoint, parse_endpoint
from bulkmail.wire.transaction import Transaction
from unit.job.fake_signers import FakeSigners
from unit.job.fake_writer import FakeWriter
from unit.job.journal_tools import OFFSET, rows
from unit.job.virtual_loop import MOST_TURNS, Clock, VirtualLoop
from unit.job.virtual_loop import START as START

BODY = b"Subject: x\r\n\r\nhello\r\n.\r\n"
OK, GO, QUEUED = b"250 2.0.0 ok", b"354 go on", b"250 2.0.0 queued as Q%d"


class Drop:
    """An answer: the connection ends in place of a reply. taken: at the end of data, after the message was taken."""

    def __init__(self, taken: bool = False) -> None:
        self.taken = taken


DROP, DROP_TAKEN = Drop(), Drop(taken=True)

# (relay's name, phase, about) -> a reply without CRLF, a Drop, or None for the usual answer. Phases: "connect" (about
# the number of the connection; an error refuses it, a float: it hangs for so long), "mail" and "rcpt" (an address),
# "data" and "dot" (a tuple of the recipients so far).
Answer = Callable[[str, str, Any], "bytes | Drop | BulkmailError | float | None"]


@dataclass
class FakeRelay:
    """What a relay is like. `url` may carry options such as ?rate=10/s&connections=3."""

    name: str = "main"
    url: str = "smtp://relay.test"
    latency: float = 0.01
    pipelining: bool = True
    chunking: bool = False
    patience: float = 300.0
    egresses: Sequence[Egress] = ()
    pins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    weight: int | None = None
    backup: bool = False
    # what it did
    opened: int = 0
    begun: Counter[str | None] = field(default_factory=Counter, repr=False)  # connections, by egress
    open: Counter[str | None] = field(default_factory=Counter, repr=False)  # connections now, by egress
    most: Counter[str | None] = field(default_factory=Counter, repr=False)  # and at their most
    most_open: int = 0  # of all egresses together
    by: dict[str | None, Counter[str]] = field(default_factory=lambda: defaultdict(Counter), repr=False)  # taken
    times_by: dict[str | None, list[float]] = field(default_factory=lambda: defaultdict(list), repr=False)
    taken: Counter[str] = field(default_factory=Counter, repr=False)
    times: list[float] = field(default_factory=list, repr=False)  # of each recipient's MAIL, loop time


class FakeTransport:
    """The other end of one connection: bytes in, replies out after the latency."""

    def __init__(self, simulation: Simulation, relay: FakeRelay, session: Session, egress: str | None) -> None:
        self._simulation, self._relay, self._session, self._egress = simulation, relay, session, egress
        relay.open[egress] += 1
        relay.most[egress] = max(relay.most[egress], relay.open[egress])
        relay.most_open = max(relay.most_open, relay.open.total())
        simulation.most_open = max(simulation.most_open, sum(one.open.total() for one in simulation.relays))
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._replies: deque[tuple[bytes, bool]] = deque()
        self._content = False
        self._chunk = 0  # bytes of a BDAT that are to come
        self._sender: str | None = None
        self._mailed = 0.0
        self._rcpts: list[str] = []
        self._closed = False

    def get_extra_info(self, name: str) -> Any:
        return {"ssl_object": self}.get(name)  # under TLS nothing is written past the transport

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return self._closed

    def abort(self) -> None:
        self._end()

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            self._relay.open[self._egress] -= 1

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def write(self, data: bytes) -> None:
        if self._closed:
            return
        self._buffer += data
        replies: list[bytes] = []
        end = False
        while not end and (len(self._buffer) >= self._chunk if self._chunk else b"\r\n" in self._buffer):
            answer = self._next()
            if isinstance(answer, Drop):
                end = True
            elif answer is not None:
                replies.append(answer + b"\r\n")
                end = answer.startswith((b"421", b"221"))
        if end:
            self._end()
        self._replies.append((b"".join(replies), end))
        self._loop.call_later(self._relay.latency, self._deliver)

    def _next(self) -> bytes | Drop | None:
        if self._chunk:
            self._buffer, self._chunk = self._buffer[self._chunk :], 0
            return self._end_of_data() if self._rcpts else b"503 5.5.1 MAIL and RCPT first"
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return self._line(line)

    def _deliver(self) -> None:
        data, end = self._replies.popleft()  # timers of the same time are called in any order
        if data:
            self._session.data_received(data)
        if end:
            self._session.eof_received()

    def _ask(self, phase: str, about: Any) -> bytes | Drop | None:
        return self._simulation.ask(self._relay.name, phase, about, self._egress)

    def _line(self, line: bytes) -> bytes | Drop | None:
        if self._content:
            return self._end_of_data() if line == b"." else None
        verb, address = line[:4].upper(), line[line.find(b"<") + 1 : line.rfind(b">")].decode()
        if verb == b"MAIL":
            return self._mail(address)
        if verb == b"RCPT":
            return self._rcpt(address)
        if verb == b"DATA":
            return self._data()
        if verb == b"BDAT":
            self._chunk = int(line.split()[1])
            return None
        self._sender, self._rcpts = None, []
        return {b"RSET": OK, b"QUIT": b"221 2.0.0 bye"}[verb]

    def _mail(self, address: str) -> bytes | Drop:
        answer = self._ask("mail", address) or OK
        if answer is OK:
            self._sender, self._rcpts, self._mailed = address, [], self._loop.time()
        return answer

    def _rcpt(self, address: str) -> bytes | Drop:
        if self._sender is None:
            return b"503 5.5.1 MAIL first"
        self._relay.times.append(self._mailed)
        self._relay.times_by[self._egress].append(self._mailed)
        self._simulation.offers.append((self._mailed, self._relay.name, self._egress, address))
        self._simulation.tried[address] += 1
        answer = self._ask("rcpt", address) or OK
        if answer is OK:
            self._rcpts.append(address)
        return answer

    def _data(self) -> bytes | Drop:
        if not self._rcpts:
            return b"554 5.5.1 no valid recipients" if self._sender is not None else b"503 5.5.1 MAIL first"
        answer = self._ask("data", tuple(self._rcpts)) or GO
        self._content = answer is GO
        return answer

    def _end_of_data(self) -> bytes | Drop:
        self._content = False
        answer = self._ask("dot", tuple(self._rcpts)) or QUEUED % len(self._relay.taken)
        if answer is DROP_TAKEN or (isinstance(answer, bytes) and answer.startswith(b"2")):
            self._relay.taken.update(self._rcpts)
            self._relay.by[self._egress].update(self._rcpts)
        self._sender, self._rcpts = None, []
        return answer


class FakeSource:
    """user<number>@example.test, by the offsets that journal_tools.rows gives; `broken` once it was changed."""

    def __init__(self) -> None:
        self.broken: BulkmailError | None = None

    def read(self, offsets: Sequence[int]) -> list[dict[str, Any]]:
        if self.broken is not None:
            raise self.broken
        return [{"email": address(offset // OFFSET)} for offset in offsets]


class FakeCompiled:
    """`bad` row numbers cannot be composed."""

    def __init__(self, shared: bool, bad: frozenset[int]) -> None:
        self.shared, self.bad, self.eight_bit = shared, bad, False

    def compose(self, rows: list[dict[str, Any]], numbers: list[int], date: bytes) -> list[Any]:
        return [
            MessageError(f"row {number} cannot be composed")
            if number in self.bad
            else (b"news@example.com", row["email"].encode(), BODY)
            for row, number in zip(rows, numbers, strict=True)
        ]

    def compose_shared(self, date: bytes) -> tuple[bytes, bytes]:
        return b"news@example.com", BODY

    def message_id(self, number: int, address: str) -> str:
        return f"<{number}.{address}>"


def address(number: int) -> str:
    return f"user{number}@example.test"


class Simulation:
    """One job. run() it; it may be stopped and, with the same ledger, run again.

    recipients     row numbers from 1
    answer         see Answer
    fail_commit    see FakeWriter
    at             [(seconds, function)]: called at that time of the run
    retry          in place of delays and give_up_after
    turns          of the loop at most
    """

    def __init__(
        self,
        recipients: int = 10,
        *relays: FakeRelay,
        answer: Answer = lambda relay, phase, about: None,
        shared: bool = False,
        batch: int = 1,
        bad: Sequence[int] = (),
        delays: tuple[float, ...] = (60.0, 300.0),
        give_up_after: float = 86_400.0,
        retry: RetrySpec | None = None,
        stop_if: Sequence[StopRule] = (),
        rate: float | None = None,
        connections: int | None = None,
        domains: Sequence[DomainLimit] = (),
        commit_seconds: float = 0.001,
        fail_commit: Callable[[int], BaseException | None] = lambda number: None,
        chunk: int = 1000,
        at: Sequence[tuple[float, Callable[[], None]]] = (),
        ledger: Ledger | None = None,
        on_event: bool = True,
        signers: FakeSigners | None = None,
        calendar: Calendar | None = None,
        ramp: Ramp | None = None,
        adaptive: AdaptiveSpec | None = None,
        turns: int = MOST_TURNS,
    ) -> None:
        self.turns = turns
        self.calendar, self.ramp, self.adaptive = calendar, ramp, adaptive
        self.signers = signers
        self.relays = list(relays) or [FakeRelay()]
        self.answer, self.shared, self.batch = answer, shared, batch
        self.bad, self.rate = frozenset(bad), rate
        self.connections, self.domains = connections, domains
        self.retry = retry or RetrySpec(delays, give_up_after, jitter=0.0)
        self.draw = 0.0  # what the jitter draws
        self.stop_if = tuple(stop_if)
        self.commit_seconds, self.fail_commit, self.at = commit_seconds, fail_commit, at
        self.ledger = ledger if ledger is not None else filled(recipients, chunk)
        self.source = FakeSource()
        self.events: list[dict[str, Any]] = []
        self._with_events = on_event
        self.tried: Counter[str] = Counter()  # RCPTs, by address
        self.offers: list[tuple[float, str, str | None, str]] = []  # (time of MAIL, relay, egress, recipient)
        self.most_open = 0  # connections of all relays at a time
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.handed: list[Transaction] = []
        self.scheduler: Scheduler
        self.tally: Tally
        self.writer: FakeWriter

    def ask(self, relay: str, phase: str, about: Any, egress: str | None) -> Any:
        self.by = egress
        return self.answer(relay, phase, about)

    # -- running

    def run(self) -> Simulation:
        """To its end; `error` is then what stopped it, or None."""
        with asyncio.Runner(loop_factory=functools.partial(VirtualLoop, self.turns)) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, VirtualLoop)
            with ExitStack() as patches:
                for module in (scheduler, leases, outcomes, notices, relay, slowing, tally, timing):
                    patches.enter_context(mock.patch.object(module, "time", Clock(loop)))
                patches.enter_context(mock.patch.object(lane_module, "open_session", self._open_session))
                runner.run(self._run())
                self.turns_taken = loop.turns
                if loop.problem is not None:
                    raise loop.problem
        return self

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self.writer = FakeWriter(self.ledger, self.commit_seconds, self.fail_commit)
        self.tally = Tally("job", "job.journal", self.ledger.counts(live=True))
        self._before = self.ledger.counts(live=True)
        self._make_scheduler()
        timers = [loop.call_later(seconds, call) for seconds, call in self.at]
        self.scheduler.start()
        self.error = await self.scheduler.done
        for timer in timers:
            timer.cancel()
        self.seconds = loop.time() - begun
        await asyncio.gather(*(one.pool.close() for one in self.scheduler.relays))

    def _make_scheduler(self) -> None:
        made = []
        for fake in self.relays:
            endpoint = parse_endpoint(fake.url)
            rate = endpoint.options.rate
            pins = Pins(fake.pins) if fake.pins else None
            spec = RelaySpec(fake.name, endpoint, tuple(fake.egresses), pins, fake.weight, fake.backup)
            made.append(Relay(spec, spec.connections, Limit(rate.per_second if rate else None), fake.patience))
            made[-1].id = self.ledger.name_id(fake.name)
            self.tally.relays[fake.name] = made[-1].tally
        limit = Limit(self.rate)
        # as job.run does it: a transaction is granted whole
        paces = [Limit(way.rate.per_second) for fake in self.relays for way in fake.egresses if way.rate]
        batch = min([self.batch, *(one.burst for one in (limit, *(one.limit for one in made), *paces) if one.rate)])
        self.scheduler = Scheduler(
            composer=Composer(FakeCompiled(self.shared, self.bad), self.source, batch, self.signers),  # type: ignore[arg-type]
            relays=made,
            routes=self.ledger.routes(),
            writer=self.writer,  # type: ignore[arg-type]
            tally=self.tally,
            limit=limit,
            retries=Retries(self.retry, several=len(made) > 1, draw=lambda: self.draw),
            stop_rules=StopRules(self.stop_if),
            connections=self.connections,
            domains=self.domains,
            on_event=self.events.append if self._with_events else None,
            plan=Plan(self.calendar or Calendar(), self.ramp, self.adaptive),
        )
        source = _Watched(self)
        for one in made:
            one.open_pool(source, self.ledger)  # type: ignore[arg-type]

    async def _open_session(self, endpoint: Endpoint, turn: Turn, **given: object) -> Session:
        fake = next(one for one in self.relays if parse_endpoint(one.url).host == endpoint.host)
        fake.opened += 1
        number, egress = fake.opened, given.get("egress")
        assert egress is None or isinstance(egress, str)
        fake.begun[egress] += 1
        await asyncio.sleep(fake.latency)
        refused = self.ask(fake.name, "connect", number, egress)
        if isinstance(refused, float):  # it hangs for so long
            await asyncio.sleep(refused)
            refused = TimedOut("no greeting", phase="greeting")
        if isinstance(refused, BulkmailError):
            raise refused
        if refused is not None:
            raise ConnectError(f"{endpoint.host} refused us: {refused!r}")
        session = Session(
            asyncio.get_running_loop(), turn, endpoint.options.command_timeout, endpoint.options.data_timeout
        )
        session.connection_made(FakeTransport(self, fake, session, egress))
        session.data_received(b"220 ready\r\n")
        await session.greeting(30.0)
        session.wire.pipelining, session.wire.chunking = fake.pipelining, fake.chunking
        return session

    def stop(self) -> None:
        self.scheduler.stop(None)

    def hang_up(self) -> None:
        """Every connection is lost."""
        for one in self.scheduler.relays:
            for session in list(one.pool.sessions):
                session.abort(ConnectionLost("gone"))

    # -- what became of it

    @property
    def taken(self) -> Counter[str]:
        return sum((one.taken for one in self.relays), Counter())

    @property
    def counts(self) -> dict[str, int]:
        """The run's figures: the states above 0."""
        return shown(self.tally.counts)

    def checked(self, live: bool = False) -> Simulation:
        """The figures of run and ledger agree, and with what the relays took. For after run()."""
        counts, kept = self.tally.counts, self.ledger.counts(live=live)
        assert counts.as_dict() == kept.as_dict() | {"attempts": counts.attempts, "bytes": counts.bytes}
        assert all(value >= 0 for value in counts.as_dict().values())
        delivered, doubt = counts.delivered - self._before.delivered, counts.in_doubt - self._before.in_doubt
        assert delivered <= sum(self.taken.values()) <= delivered + doubt
        return self

    def states(self) -> dict[int, str]:
        """Row number -> the byte of its newest chunk."""
        assert isinstance(self.ledger, MemoryLedger)
        found = {}
        for chunk in self.ledger.chunks.values():
            for number, byte in zip(chunk.numbers, chunk.outcome, strict=True):
                if chr(byte) not in "mr":
                    assert number not in found, f"recipient {number} is counted twice"
                    found[number] = chr(byte)
        return found

    def named(self, *names: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] in names]


class _Watched:
    """The scheduler as the pools see it; what it hands out must have been committed as claimed."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._simulation.scheduler, name)

    def take(self, lane: Lane, room: int) -> list[Transaction]:
        taken = self._simulation.scheduler.take(lane, room)
        ledger = self._simulation.ledger
        if isinstance(ledger, MemoryLedger):
            for tx in taken:
                chunk = ledger.chunks[tx.tag.no]
                for place in [tx.at] if tx.positions is None else tx.positions:
                    assert place < chunk.claimed, "handed out before its claim was committed"
                    assert chunk.outcome[place] == ord("."), "handed out although it has its outcome"
        self._simulation.handed += taken
        return taken


def filled(recipients: int, chunk: int = 1000) -> MemoryLedger:
    return filled_by_route({"*": recipients}, chunk)


def filled_by_route(recipients: Mapping[str, int], chunk: int = 1000) -> MemoryLedger:
    """So many of each route; their numbers follow each other."""
    ledger, first = MemoryLedger(), 1
    with ledger.fill() as filler:
        for route, count in recipients.items():
            for left in range(count, 0, -chunk):
                size = min(chunk, left)
                filler.add_chunk(route, rows(first, size), size)
                first += size
        filler.set_total(first - 1)
    return ledger


def shown(counts: Counts) -> dict[str, int]:
    return {name: value for name, value in counts.as_dict().items() if value and name not in ("attempts", "bytes")}

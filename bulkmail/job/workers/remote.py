"""What a worker's scheduler finds in place of the journal and of a run's figures: the line to the run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bulkmail.job.ledger import Advance, Counts
from bulkmail.job.routes import Route
from bulkmail.job.scheduler import Scheduler
from bulkmail.job.specs import DomainLimit
from bulkmail.job.stop_rules import StopRules
from bulkmail.job.tally import Tally
from bulkmail.job.writer import Done, LeasedEach
from bulkmail.pool.domains import ELSEWHERE, LimitMap

Send = Callable[..., None]  # a word, and what belongs to it


class RemoteWriter:
    """A Writer in another process. Answers come in any order; what is under way is bounded by who asks."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._asked: dict[int, Callable[[Any, BaseException | None], None]] = {}
        self._last = 0

    def submit(self, batch: Advance, done: Done) -> None:
        self._ask(lambda _, error: done(error), "advance", batch)

    def lease_each(self, routes: list[str], chunks: int, now: float, done: LeasedEach) -> None:
        self._ask(lambda found, error: done(found or [], error), "lease", routes, chunks, now)

    def _ask(self, answer: Callable[[Any, BaseException | None], None], word: str, *what: Any) -> None:
        self._last += 1
        self._asked[self._last] = answer
        self._send(word, self._last, *what)

    def answered(self, number: int, result: Any, error: BaseException | None) -> None:
        self._asked.pop(number)(result, error)


@dataclass
class Figures:
    """What a worker has done so far: all of it, since it began.

    counts   moves between states: what it took from one is below 0
    ended    of those that were no deliveries, by state and kind (see StopRules); unsent: those without an attempt
    """

    counts: Counts = field(default_factory=Counts)
    sent: int = 0
    relays: dict[str, dict[str, Any]] = field(default_factory=dict)
    waiting: dict[str, Any] | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    unsent: int = 0


class WorkerTally(Tally):
    """Counts from nothing."""

    rules: RemoteRules

    def progress(self) -> dict[str, Any]:
        return {"figures": self.figures()}

    def figures(self) -> Figures:
        relays = {name: relay.as_dict() for name, relay in self.relays.items()}
        rules = self.rules
        return Figures(self.counts, self.sent, relays, self.waiting, self.kept(), rules.counts, rules.unsent)


class RemoteRules(StopRules):
    """Counts for `stop_if`, which the run looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.unsent = 0

    def note(self, state: str, kind: str, sent: bool = True) -> None:
        self.unsent += not sent
        self.counts.update({state, kind})


class WorkerScheduler(Scheduler):
    """Has the ledger together with other workers: whether everybody has been sent to, the run says.

    on_idle  called when it has nothing, until it is told to look again
    """

    on_idle: Callable[[], None]
    owned: OwnGroups

    def start(self) -> None:
        for stock in self._stocks:
            if not self.owned.mine(stock.route):
                stock.exhausted = True
                self._stocks.low.pop(stock, None)
        self._loop.call_soon(self.look_for_end)  # nothing may be due, and nobody would say so
        super().start()

    def _finish_or_wait(self) -> None:
        self.on_idle()

    def _transactions_left(self) -> int:
        return 1 << 40  # nobody here knows

    def expect(self, route: str) -> None:
        if self.owned.mine(route):
            super().expect(route)

    def look_again(self, routes: list[str]) -> None:
        """There may be chunks of these in the ledger that were not there, or had another worker."""
        for route in routes:
            self.expect(route)
        self._leases.fetch_if_low()
        self.look_for_end()

    def inherit(self, lost: int, living: list[int]) -> None:
        """A worker is no more. What it had sent lately is not known here: the burst of what is taken over counts as
        used up."""
        for group in self.owned.inherit(lost, living):
            limit = self.pacing.limit(f"domain {','.join(group.patterns)}")
            limit.grant(limit.burst, self._loop.time())

    def finish(self) -> None:
        """Everybody has an outcome, here and at the others."""
        if not self.done.done():
            self.done.set_result(None)


class OwnGroups:
    """Which routes are this worker's: all but those whose domains' limit another one keeps."""

    def __init__(self, groups: tuple[DomainLimit, ...], workers: int, index: int) -> None:
        self._groups, self._index = groups, index
        self._owners = [place % workers for place in range(len(groups))]
        self._places = {pattern: place for place, group in enumerate(groups) for pattern in group.patterns}
        self._patterns = LimitMap(self._places)

    def mine(self, route: str) -> bool:
        place = self._place(Route.parse(route).pattern)
        return place is None or self._owners[place] == self._index

    def _place(self, pattern: str) -> int | None:
        """As Pacing.group()."""
        place = self._places.get(self._patterns.covering(pattern))
        return self._places.get(ELSEWHERE) if place is None else place

    def inherit(self, lost: int, living: list[int]) -> list[DomainLimit]:
        """The groups that are this worker's from now on."""
        gained = []
        for place, owner in enumerate(self._owners):
            if owner == lost:
                self._owners[place] = living[place % len(living)]
                if self._owners[place] == self._index:
                    gained.append(self._groups[place])
        return gained


class LogLine(logging.Handler):
    """Hands log records to the run, which has the handlers. It may be called from other threads."""

    def __init__(self, send: Send, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._send, self._loop = send, loop

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._send, "log", record.name, record.levelno, text)

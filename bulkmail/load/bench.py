"""A load run: as many messages as a relay takes, over a pool's connections, and how long each took.

The pool is the one that mailers and jobs use; this is another source of work for it. What is prepared once (the
message, the envelopes) is sent again and again: transactions that were taken are used for the next message.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bulkmail.errors import BulkmailError
from bulkmail.load.content import Load
from bulkmail.load.meter import Meter, renewed, retried
from bulkmail.load.reasons import Reasons
from bulkmail.load.usage import cpu_seconds, peak_memory_mb
from bulkmail.pool.limits import BURST_SECONDS, Alarm, Limit
from bulkmail.pool.parcel import MAX_TRIES
from bulkmail.pool.pool import Pool
from bulkmail.wire.transaction import IN_DOUBT, NOT_TAKEN, Transaction

if TYPE_CHECKING:
    from bulkmail.pool.lane import Lane
    from bulkmail.smtp.session import Session
    from bulkmail.url import Endpoint

# Seconds before the next connection after so many failures in a row. A server under load that drops one is tried again;
# one that is not there is no place to measure.
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
OPENING_SECONDS = 5.0  # connections that take longer are not waited for before the first message
STOP_SECONDS = 5.0  # what is under way when a run is cut short has so long to be answered
UNLIMITED = 1 << 60


@dataclass(frozen=True)
class BenchReport:
    """What was measured.

    messages      that the server took, for one recipient at least
    failed        the others that were begun: refused, not sent in MAX_TRIES tries, or in doubt
    in_doubt      of the failed: whose connection was lost between the end of data and its reply
    refused       recipients that were refused of messages that were taken
    opening       seconds until the connections were open
    seconds       from then to the last verdict; so is cpu_seconds
    size          bytes of a message
    p50, p99      seconds from MAIL to the verdict, of the messages taken; None where there are none
    connections   the most at a time; asked: how many were wanted
    reasons       (text, how often) of the failures, the most frequent first
    error         why the run could not go on, or None
    stopped       it was cut short from outside
    """

    messages: int
    failed: int
    in_doubt: int
    refused: int
    opening: float
    seconds: float
    cpu_seconds: float
    size: int
    p50: float | None
    p99: float | None
    max_rss_mb: float | None
    connections: int
    asked: int
    connect_failures: int
    last_failure: BaseException | None
    reasons: list[tuple[str, int]]
    error: BulkmailError | None
    stopped: bool

    @property
    def messages_per_second(self) -> float:
        return self.messages / self.seconds if self.seconds > 0 else 0.0

    @property
    def cpu_us_per_message(self) -> float:
        """Of all that were begun: a refusal is work too."""
        begun = self.messages + self.failed
        return self.cpu_seconds * 1e6 / begun if begun else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "messages": self.messages,
            "seconds": round(self.seconds, 6),
            "messages_per_second": round(self.messages_per_second, 1),
            "bytes_per_second": round(self.messages_per_second * self.size),
            "p50_ms": _milliseconds(self.p50),
            "p99_ms": _milliseconds(self.p99),
            "cpu_us_per_message": round(self.cpu_us_per_message, 2),
            "max_rss_mb": None if self.max_rss_mb is None else round(self.max_rss_mb, 1),
            "failed": self.failed,
        }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


class Bench:
    """endpoint     the relay; `connections` of its options are opened
    messages     how many to send; None: until `duration`
    duration     seconds; None: until all messages have an end
    """

    def __init__(self, endpoint: Endpoint, load: Load, messages: int | None, duration: float | None = None) -> None:
        self.endpoint, self.load, self.messages, self.duration = endpoint, load, messages, duration
        self._left = messages if messages is not None else UNLIMITED
        rate = endpoint.options.rate.per_second if endpoint.options.rate else None
        # a transaction is granted whole
        self._limit = Limit(rate, max(load.each, rate * BURST_SECONDS) if rate else None)
        self._meter, self._reasons = Meter(), Reasons()
        self._spare: list[Transaction] = []
        self._made = 0
        self._failed = self._in_doubt = self._refused = 0
        self._connections = self._connect_failures = 0
        self._last_failure: BaseException | None = None
        self._error: BulkmailError | None = None
        self._stops = 0
        # when the first connection was begun, the first message might be, and the last message had its end
        self._opened = self._started = self._ended = 0.0
        self._cpu = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Future[None] | None = None
        self._pool: Pool | None = None
        self._alarm: Alarm | None = None

    # -- the run

    async def run(self) -> BenchReport:
        """Send them all, or until the duration is over or stop() is called; raises nothing of the network."""
        self._loop = loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        if self._stops:
            self._end()
        self._alarm = Alarm(loop, self._wake)
        self._pool = pool = Pool(self.endpoint, self, paced=self._limit.rate is not None, eager=True)
        self._opened = time.monotonic()
        self._timers.append(loop.call_later(OPENING_SECONDS, self._begin))
        try:
            self._wake()
            await self._over
            await self._drain(pool)
            cpu = cpu_seconds() - self._cpu
        finally:
            self._alarm.cancel()
            for timer in self._timers:
                timer.cancel()
            await pool.close(abort=pool.busy() > 0 or self._error is not None)
        return self._report(cpu)

    def _begin(self) -> None:
        """The connections are there, or no more of them are waited for: from now on there is work."""
        if self._started or self._loop is None:
            return
        self._started, self._cpu = time.monotonic(), cpu_seconds()
        if self.duration is not None:
            self._timers.append(self._loop.call_later(self.duration, self._end))
        self._wake()

    async def _drain(self, pool: Pool) -> None:
        """What was cut short: what is written is waited for, the rest was never begun."""
        pool.recall()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await pool.finished()
        except TimeoutError:
            await pool.close(abort=True)

    def stop(self) -> None:
        """Begin nothing more; run() returns what was measured. Safe from signal handlers and other threads."""
        self._stops += 1
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
                self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._left = 0
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _report(self, cpu: float) -> BenchReport:
        latencies = self._meter.latencies
        begun = self._started > 0
        return BenchReport(
            self._meter.taken,
            self._failed,
            self._in_doubt,
            self._refused,
            self._started - self._opened if begun else 0.0,
            max(0.0, self._ended - self._started) if begun else 0.0,
            cpu if begun else 0.0,
            self.load.size,
            latencies.percentile(50),
            latencies.percentile(99),
            peak_memory_mb(),
            self._connections,
            self.endpoint.options.connections,
            self._connect_failures,
            self._last_failure,
            self._reasons.most_common(),
            self._error,
            self._stops > 0,
        )

    def progress(self) -> dict[str, Any]:
        """For the progress bar, with the keys of a job's summary."""
        return {
            "job": "bench",
            "recipients": self.messages or 0,
            "delivered": self._meter.taken,
            "failed": self._failed,
        }

    # -- the pool's Source

    def backlog(self, lane: Lane) -> int:
        return self._granted(self._left, grant=False) if self._started else self._left

    def take(self, lane: Lane, room: int) -> list[Transaction]:
        if not self._started:
            return []
        room = self._granted(min(room, self._left), grant=True)
        self._left -= room
        spare = self._spare
        while len(spare) < room:
            spare.append(self.load.transaction(self._made))
            self._made += 1
        taken = spare[len(spare) - room :]
        del spare[len(spare) - room :]
        return taken

    def _granted(self, wanted: int, *, grant: bool) -> int:
        """How many of so many messages the rate allows now, whether they are taken (`grant`) or not."""
        if self._limit.rate is None or not wanted:
            return wanted
        assert self._loop is not None and self._alarm is not None
        now, each = self._loop.time(), self.load.each
        count = min(wanted, int(self._limit.room(now)) // each)
        if grant:
            self._limit.grant(count * each, now)
        if count < wanted:
            self._alarm.ring_in(self._limit.wait(now, each))
        return count

    def _wake(self) -> None:
        if self._pool is not None:
            self._pool.wake()

    def settle(self, lane: Lane, finished: list[Transaction]) -> None:
        for tx in self._meter.note(finished, self._spare):
            self._settle(tx)
        self._ended = time.monotonic()
        if self.messages is not None and self._meter.taken + self._failed >= self.messages:
            self._end()

    def _settle(self, tx: Transaction) -> None:
        """One that was not taken for everybody."""
        if tx.state == NOT_TAKEN and (not tx.mail_at or tx.tries < MAX_TRIES - 1):
            self._again(tx)
            return
        if tx.state != IN_DOUBT and tx.error is None and tx.judged and tx.reply is not None and tx.reply.code < 300:
            self._meter.count(tx)
            for place, reply in (tx.rejected or {}).items():
                self._refused += 1
                self._reasons.note_reply("end of data" if place in (tx.late or ()) else "RCPT", reply)
        else:
            self._failed += 1
            self._in_doubt += tx.state == IN_DOUBT
            self._reasons.note(tx)
        self._spare.append(renewed(tx))

    def _again(self, tx: Transaction) -> None:
        if self._over is not None and self._over.done():
            return  # it was not begun, or is as good as that
        self._spare.append(retried(tx))
        self._left += 1

    def failed(self, lane: Lane, error: BulkmailError, failures: int) -> float | None:
        self._connect_failures += 1
        self._last_failure = error
        self._begin()  # with those that it has
        hopeless = lane.pool.hopeless()
        pause = PAUSES[min(failures, len(PAUSES)) - 1]
        if (lane.sessions or lane.opening) and not hopeless:
            return pause  # the others go on
        if hopeless or failures > len(PAUSES) or not self._connections:
            self._error = error
            self._end()
            return None
        return pause

    def event(self, lane: Lane, name: str, session: Session | None, error: BaseException | None) -> None:
        if name == "connected":
            self._connections = max(self._connections, len(lane.sessions))
            if len(lane.sessions) >= min(self.endpoint.options.connections, self._left):
                self._begin()

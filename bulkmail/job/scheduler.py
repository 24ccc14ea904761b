"""Which recipient next, by which relay, when; and what each outcome leads to.

It is the `Source` of every relay's pool. Recipients are claimed in the ledger by the batch, and a batch is handed to
the pools only after its claim is committed, and composed only then. Outcomes are committed together with the next
claim, or by a short timer. There is one commit under way at most. Nothing here runs per
message: plain deliveries are settled in Cython, and the rest is rare.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import time
from collections import deque
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any, TypeVar

from bulkmail.errors import BulkmailError, JournalError, MessageError
from bulkmail.job.compose import Composer, split
from bulkmail.job.detail import DetailBuffer
from bulkmail.job.ledger import Advance, Chunk
from bulkmail.job.outcomes import EVERYONE, Outcomes
from bulkmail.job.pacing import Pacing
from bulkmail.job.relay import Relay
from bulkmail.job.settle import Work, settle_delivered
from bulkmail.job.tally import Tally
from bulkmail.job.writer import Writer
from bulkmail.pool.limits import Limit
from bulkmail.pool.pool import Pool
from bulkmail.smtp.outcome import fitting, over_the_limit
from bulkmail.smtp.session import Session
from bulkmail.wire.transaction import NOT_TAKEN, WAITING, Transaction

# What one commit may cover, and how long an outcome may wait for one: docs/architecture.md, "How much can be in doubt".
COMMIT_RECIPIENTS = 512
COMMIT_SECONDS = 0.01
AHEAD_SECONDS = 0.02  # recipients are claimed for this long ahead: what two commits take
SHARED_AHEAD = 32  # transactions of a shared message that are claimed ahead at most
PACED_SECONDS = 0.05  # a job with a rate claims this much of it ahead, at least one
LEASE_CHUNKS = 4  # chunks in hand before their recipients run out: hides the ledger's latency
LEASE_BELOW = 2 * COMMIT_RECIPIENTS

Entry = TypeVar("Entry", bound=Callable[..., Any])


def entry(method: Entry) -> Entry:
    """For what a pool, the writer or a timer calls: an exception that we did not expect ends the run, and is its end.

    The loop would log it and go on, and the run would wait for ever for what was lost with it.
    """

    @functools.wraps(method)
    def guarded(self: Scheduler, *args: Any) -> Any:
        try:
            return method(self, *args)
        except Exception as error:
            self._break_off(error)
            return []

    return guarded  # type: ignore[return-value]


class Scheduler:
    """compose, relays: what to send and by whom; writer: the ledger's thread; tally: the figures that it keeps.

    done  future: None when every recipient has its outcome, or the error that stopped the run; an exception is a bug
    """

    def __init__(
        self,
        *,
        composer: Composer,
        relays: list[Relay],
        writer: Writer,
        tally: Tally,
        limit: Limit,
        delays: tuple[float, ...],
        give_up_after: float,
        on_event: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.composer, self.relays, self.writer, self.tally = composer, relays, writer, tally
        self.done: asyncio.Future[BulkmailError | None] = self._loop.create_future()
        self._on_event = on_event
        self._pacing = Pacing(self._loop, limit, relays, self._wake_pools)
        self._by_pool: dict[Pool, Relay] = {}
        self._works: dict[int, Work] = {}  # chunks in hand, oldest first
        self._claimed: deque[tuple[Work, list[int]]] = deque()  # positions whose claim is committed
        self._ready: deque[Transaction] = deque()  # of those, what is composed
        self._dirty: set[Work] = set()
        self._details = DetailBuffer(time.time() - self._loop.time())
        self._outcomes = Outcomes(tally, delays, give_up_after, self._details, composer.compiled.message_id, on_event)
        self._committing = self._leasing = False
        self._exhausted = False  # the ledger has no chunk that is due
        self._halting: BulkmailError | None = None
        self._stopping = False
        self._demand = 0
        self._taken = 0  # recipients handed to pools since the last claim
        self._ahead = 0  # recipients that should be ready
        self._claimed_at = 0.0
        self._flush_timer: asyncio.TimerHandle | None = None
        self._due_timer: asyncio.TimerHandle | None = None
        self._serial = 0

    def start(self) -> None:
        self._by_pool = {relay.pool: relay for relay in self.relays}
        self._lease()

    # -- the pools' Source

    def backlog(self, pool: Pool) -> int:
        """What could be sent now: enough to say whether another connection would have work."""
        if self._stopping or pool.dead is not None or not self._pacing.allows(self._by_pool[pool]):
            return 0
        return -(-(self._held() + self._waiting()) // self.composer.per_transaction)

    def _held(self) -> int:
        """Recipients that are claimed, committed, and not handed to a pool."""
        ready = sum(len(tx.rcpts) for tx in self._ready) if self.composer.per_transaction > 1 else len(self._ready)
        return ready + sum(len(places) for _, places in self._claimed)

    def _waiting(self) -> int:
        """Recipients of the chunks in hand that are not claimed yet."""
        return sum(work.waiting() for work in self._works.values())

    @entry
    def take(self, pool: Pool, room: int) -> list[Transaction]:
        """Transactions whose claims are committed, as many as the limits allow now."""
        relay = self._by_pool[pool]
        if self._stopping or pool.dead is not None:
            return []
        self._compose_up_to(room)
        taken: list[Transaction] = []
        ready, now, limited = self._ready, self._loop.time(), self._pacing.limits(relay)
        while ready and len(taken) < room:
            if len(ready[0].rcpts) > relay.batch:
                ready.extendleft(reversed(split(ready.popleft(), relay.batch)))
            count = len(ready[0].rcpts)
            if limited and not self._pacing.grant(relay, count, now):
                break
            taken.append(ready.popleft())
            self._taken += count
        short = room - len(taken)
        if short or self._held() < self._ahead / 2:
            self._demand = max(self._demand, short * self.composer.per_transaction)
            self._claim()
        return taken

    def _compose_up_to(self, room: int) -> None:
        """Compose claimed recipients until `room` transactions are ready.

        No sooner than they are asked for: a message is then still in the processor's cache when it is written.
        """
        while self._claimed and len(self._ready) < room:
            work, places = self._claimed.popleft()
            most = (room - len(self._ready)) * self.composer.per_transaction
            if len(places) > most:
                self._claimed.appendleft((work, places[most:]))
            self._compose(work, places[:most])

    def _wake_pools(self) -> None:
        for relay in self.relays:
            relay.pool.wake()

    @entry
    def settle(self, pool: Pool, finished: list[Transaction]) -> None:
        relay = self._by_pool[pool]
        rest, first, again, size = settle_delivered(finished, self._details, *relay.ids, self._dirty)
        if first or again:
            self._count_delivered(relay, first, again, size, finished if self._on_event else None)
        for tx in rest:
            self._settle_one(relay, tx)
        if len(self._details) >= COMMIT_RECIPIENTS:
            self._commit()
        else:
            self._flush_soon()
        if self._stopping or not (self._ready or self._claimed):
            self._look_for_end()

    def _count_delivered(
        self, relay: Relay, first: int, again: int, size: int, shown: list[Transaction] | None
    ) -> None:
        tally, count = self.tally, first + again
        tally.move("pending", "delivered", first)
        tally.move("deferred", "delivered", again)
        tally.sent += count
        tally.counts.attempts += count
        tally.counts.bytes += size
        relay.tally.delivered += count
        relay.took_one()
        self._dirty |= self._outcomes.proved(relay)
        if shown:
            self._outcomes.show_delivered(shown, relay)

    def _settle_one(self, relay: Relay, tx: Transaction) -> None:
        elsewhere = self._regroup(relay, tx)
        if len(elsewhere) == len(tx.rcpts):
            return
        if tx.state == NOT_TAKEN and (tx.tries < self._outcomes.MAX_TRIES or self._stopping):
            self._requeue(tx)
        elif self._outcomes.sender_refused(tx):
            given_up = relay.refused_us(self._outcomes.refusing_reply(tx))
            if given_up or self._stopping or not relay.accepted or tx.tries < self._outcomes.MAX_TRIES:
                self._requeue(tx)
            else:
                self._outcomes.settle(tx, relay, self._dirty)
            if given_up:
                self._relay_lost()
        else:
            self._outcomes.settle(tx, relay, self._dirty, elsewhere)
            if tx.judged and tx.reply is not None and tx.reply.code < 300:
                relay.took_one()
                self._dirty |= self._outcomes.proved(relay)
            elif self._outcomes.refused_by(relay) >= (EVERYONE if relay.usable else 1) and not self._stopping:
                relay.refuses_everyone(self._outcomes.refused_by(relay))
                self._outcomes.release_unproved(relay, self._dirty)
                self._relay_lost()

    def _regroup(self, relay: Relay, tx: Transaction) -> frozenset[int]:
        """Those who did not fit into this transaction go into others: smaller ones, by this relay, from now on."""
        elsewhere = over_the_limit(tx)
        if elsewhere:
            relay.batch = min(relay.batch, fitting(tx))
            for part in reversed(split(tx, relay.batch, elsewhere)):
                self._requeue(part)
        return frozenset(elsewhere)

    def _requeue(self, tx: Transaction) -> None:
        """Certainly not taken: it goes first on the next connection. Its claim stands."""
        self._ready.appendleft(tx.again() if tx.state != WAITING else tx)
        if not self._stopping:
            self._wake_pools()

    def failed(self, pool: Pool, error: BulkmailError, failures: int) -> float | None:
        pause = self._by_pool[pool].pause(error)
        if pause is None:
            self._loop.call_soon(self._relay_lost)  # the pool notes that it is dead when we return
        return pause

    @entry
    def _relay_lost(self) -> None:
        """A relay was given up: the others take over, or nobody is left."""
        for relay in self.relays:
            if not relay.usable:
                self._ready.extendleft(reversed(relay.pool.recall()))
        if any(relay.usable for relay in self.relays):
            self._wake_pools()
            return
        error = copy.copy(self.relays[-1].pool.dead)
        assert isinstance(error, BulkmailError)
        error.args = ("; ".join(f"relay {relay.name} was given up: {relay.pool.dead}" for relay in self.relays),)
        self._halt(error)

    def event(self, pool: Pool, name: str, session: Session | None, error: BaseException | None) -> None:
        relay = self._by_pool[pool]
        relay.tally.connections = max(relay.tally.connections, len(pool.sessions))
        if error is not None and name != "disconnected":
            relay.tally.last_error = str(error)
        if self._on_event:
            tls = session.label.tls if session is not None and session.label is not None else None
            why = str(error) if error is not None else None
            self._on_event(
                {
                    "ts": time.time(),
                    "event": name,
                    "relay": relay.name,
                    "egress": relay.egress,
                    "tls": tls,
                    "error": why,
                }
            )

    # -- claims and commits

    def _look_ahead(self) -> int:
        """How many recipients should be ready: as many as the pools take in AHEAD_SECONDS, within bounds."""
        now = self._loop.time()
        passed, self._claimed_at = max(now - self._claimed_at, 0.001), now
        size = self.composer.per_transaction
        bound = COMMIT_RECIPIENTS if size == 1 else SHARED_AHEAD * size
        rate = self._pacing.rate()
        if rate is not None:
            bound = min(bound, max(size, int(rate * PACED_SECONDS)))
        wanted = max(self._demand, self._taken * AHEAD_SECONDS / passed, self.composer.per_transaction)
        self._demand = self._taken = 0
        return int(min(bound, wanted))

    def _claim(self) -> None:
        """Claim the next recipients, and commit that with whatever else is due."""
        if self._committing or self._stopping:
            return
        self._ahead = self._look_ahead()
        size = self.composer.per_transaction
        want = -(-(self._ahead - self._held()) // size) * size  # whole transactions
        picked: list[tuple[Work, list[int]]] = []
        for work in self._works.values():
            if want <= 0:
                break
            places = work.claim(want)
            if work.dirty:
                self._dirty.add(work)
            if places:
                picked.append((work, places))
                want -= len(places)
        self._lease_if_low()
        if picked:
            self._commit(picked)

    def _flush_soon(self) -> None:
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(COMMIT_SECONDS, self._flush)

    @entry
    def _flush(self) -> None:
        self._flush_timer = None
        self._commit()

    def _commit(self, picked: Iterable[tuple[Work, list[int]]] = ()) -> None:
        if self._committing:
            return
        advance = self._collect()
        if advance is None:
            self._look_for_end()
            return
        self._committing = True
        self.writer.submit(advance, lambda error: self._on_commit(error, picked))

    def _collect(self) -> Advance | None:
        """Everything that has changed since the last commit."""
        idle = self._exhausted and not self._ready and all(w.outstanding == 0 for w in self._works.values())
        retries, moved = self._outcomes.take_retries(self._loop.time(), idle or self._stopping)
        self._dirty |= moved
        troubles = self._outcomes.take_troubles()
        if not (self._dirty or troubles or len(self._details)):
            return None
        self._serial += 1
        advance = Advance(
            chunks=[work.row() for work in self._dirty],
            details=self._details.flush(),
            troubles=troubles,
            retries=retries,
            progress=self.tally.progress(),
            serial=self._serial,
        )
        if retries:
            self._exhausted = False
        for work in self._dirty:
            if work.finished():
                self._works.pop(work.no, None)
        self._dirty.clear()
        return advance

    @entry
    def _on_commit(self, error: BaseException | None, claimed: Iterable[tuple[Work, list[int]]]) -> None:
        self._committing = False
        if error is not None:
            self._ledger_failed(error, "written")
            return
        self._claimed.extend(claimed)
        if not self._stopping:
            self._lease_if_low()
            if claimed:
                self._wake_pools()
            elif self._demand:
                self._claim()
        if self._dirty or len(self._details):
            self._flush_soon()
        self._look_for_end()

    def _compose(self, work: Work, places: list[int]) -> None:
        date = formatdate(time.time(), localtime=True).encode()
        try:
            self._ready.extend(self.composer.compose(work, places, date))
        except JournalError as changed:  # the recipients' file is not what it was
            self._outcomes.release(work, places, self._dirty)
            self._halt(changed)
        for place, address, error in self.composer.take_failures():
            self._cannot_compose(work, place, address, error)

    def _cannot_compose(self, work: Work, place: int, address: str, error: MessageError) -> None:
        self._outcomes.fail(work, place, address, error, self._dirty)
        self._flush_soon()

    # -- chunks

    def _lease_if_low(self) -> None:
        if not self._exhausted and self._waiting() < LEASE_BELOW:
            self._lease()

    def _lease(self) -> None:
        if self._leasing or self._exhausted or self._stopping:
            return
        self._leasing = True
        self.writer.lease(LEASE_CHUNKS, time.time(), self._on_lease)

    @entry
    def _on_lease(self, chunks: list[Chunk], next_due: float | None, error: BaseException | None) -> None:
        self._leasing = False
        if error is not None:
            self._ledger_failed(error, "read")
            return
        for chunk in chunks:
            self._works[chunk.no] = Work(chunk)
        if chunks:
            if self._demand:
                self._claim()
            self._wake_pools()
        else:
            self._exhausted = True
            if next_due is not None:
                self._wait_for(next_due)
        self._look_for_end()

    def _wait_for(self, due: float) -> None:
        if self._due_timer is not None:
            self._due_timer.cancel()
        self._due_timer = self._loop.call_later(min(max(due - time.time(), 0.001), 3600.0), self._retry_due)

    @entry
    def _retry_due(self) -> None:
        self._due_timer = None
        self._exhausted = False
        self._lease()

    # -- the end

    def _under_way(self) -> int:
        return sum(work.outstanding for work in self._works.values())

    def _look_for_end(self) -> None:
        """Is everybody settled, or, when stopping, everything that was begun?"""
        if self.done.done() or self._committing or self._leasing:
            return
        if self._stopping:
            self._release()  # at once: whoever is killed while the last replies are awaited leaves only those in doubt
            if self._dirty or len(self._details):
                self._commit()
            elif not self._under_way():
                self.done.set_result(self._halting)
            return
        held = self._ready or self._claimed or self._waiting() or self._under_way()
        if held or not self._exhausted or self._due_timer is not None:
            return
        for relay in self.relays:
            self._dirty |= self._outcomes.proved(relay)  # what it refused, it has refused
        if self._dirty or len(self._details) or self._outcomes.has_retries:
            self._commit()
        else:
            self._finish_or_wait()

    def _finish_or_wait(self) -> None:
        if self.tally.counts.pending or self.tally.counts.deferred:
            self._exhausted = False  # chunks were added since the last look
            self._lease()
        else:
            self.done.set_result(None)

    def _release(self) -> None:
        """Claimed and certainly not sent: moved to chunks of their own, to be sent by the next run."""
        while self._ready:
            tx = self._ready.popleft()
            self._outcomes.release(tx.tag, [tx.at] if tx.positions is None else tx.positions, self._dirty)
        while self._claimed:
            self._outcomes.release(*self._claimed.popleft(), self._dirty)
        for relay in self.relays:
            self._outcomes.release_unproved(relay, self._dirty)

    def stop(self, error: BulkmailError | None) -> None:
        """Begin nothing more; `done` is set when what is under way has ended and is recorded. error: why, or None."""
        self._halt(error)

    def _halt(self, error: BulkmailError | None) -> None:
        if self._stopping:
            return
        self._stopping, self._halting = True, error
        for relay in self.relays:
            self._ready.extend(relay.pool.recall())
        self._look_for_end()

    def _ledger_failed(self, error: BaseException, what: str) -> None:
        """Stop at once: what cannot be recorded need not be waited for."""
        self._stopping = True
        if not isinstance(error, BulkmailError):
            error = JournalError(f"the journal cannot be {what}: {error}")
        if not self.done.done():
            self.done.set_result(error)

    def _break_off(self, error: Exception) -> None:
        self._stopping = True
        if not self.done.done():
            self.done.set_exception(error)

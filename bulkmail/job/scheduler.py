"""Which recipient next, by which relay, when; and what each outcome leads to.

It is the `Source` of every relay's pool. Recipients are claimed in the ledger by the batch, and a batch is handed to
the pools only after its claim is committed, and composed only then. Outcomes are committed together with the next
claim, or by a short timer. There is one commit under way at most. Nothing here runs per
message: plain deliveries are settled in Cython, and the rest is rare.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any

from bulkmail.errors import BulkmailError, JournalError, MessageError
from bulkmail.job.compose import Composer, split
from bulkmail.job.detail import DetailBuffer
from bulkmail.job.leases import Leases, entry
from bulkmail.job.ledger import Advance
from bulkmail.job.notices import Notices
from bulkmail.job.outcomes import EVERYONE, Outcomes
from bulkmail.job.pacing import Pacing
from bulkmail.job.relay import Relay
from bulkmail.job.settle import Work, settle_delivered
from bulkmail.job.stock import COMMIT_RECIPIENTS, Places, Stock, claim_for
from bulkmail.job.tally import Tally
from bulkmail.job.writer import Writer
from bulkmail.pool.lane import Lane
from bulkmail.pool.limits import Limit
from bulkmail.pool.pool import Pool
from bulkmail.smtp.outcome import fitting, over_the_limit
from bulkmail.smtp.session import Session
from bulkmail.wire.transaction import NOT_TAKEN, WAITING, Transaction

# How long an outcome may wait for a commit: docs/architecture.md, "How much can be in doubt".
COMMIT_SECONDS = 0.01


class Scheduler:
    """composer, relays: what to send and by whom; routes: those in the ledger that have recipients; writer: the
    ledger's thread; tally: the figures that it keeps.

    done  future: None when every recipient has its outcome, or the error that stopped the run; an exception is a bug
    """

    def __init__(
        self,
        *,
        composer: Composer,
        relays: list[Relay],
        routes: Iterable[str],
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
        self._notices = Notices(on_event)
        self._pacing = Pacing(self._loop, limit, relays, self._wake_pools)
        self._by_pool: dict[Pool, Relay] = {}
        composer.on_signed = self._on_signed
        self._stocks = {route: Stock(route, composer.per_transaction, composer.ahead) for route in routes}
        self._open: dict[Lane, list[Stock]] = {}  # what each egress may carry, the one first that had its turn last
        self._leases = Leases(self, writer, self._stocks.values())
        self._dirty: set[Work] = set()
        self._details = DetailBuffer(time.time() - self._loop.time())
        self._outcomes = Outcomes(tally, delays, give_up_after, self._details, composer.compiled.message_id, on_event)
        self._committing = False
        self._halting: BulkmailError | None = None
        self.stopping = False
        self._flush_timer: asyncio.TimerHandle | None = None
        self._serial = 0

    def start(self) -> None:
        self._by_pool = {relay.pool: relay for relay in self.relays}
        for relay in self.relays:
            for lane in relay.pool.lanes:
                self._open[lane] = [stock for stock in self._stocks.values() if relay.carries(stock.route, lane)]
        if not self._stocks:
            self._loop.call_soon(self._look_for_end)
        self._leases.fetch_if_low()

    # -- the pools' Source

    def backlog(self, lane: Lane) -> int:
        """What could be sent now: enough to say whether another connection would have work."""
        if self.stopping or lane.pool.dead is not None or not self._pacing.allows(self._by_pool[lane.pool], lane):
            return 0
        count = sum(stock.held() + stock.waiting() for stock in self._open[lane])
        return -(-count // self.composer.per_transaction)

    @entry
    def take(self, lane: Lane, room: int) -> list[Transaction]:
        """Transactions whose claims are committed, as many as the limits allow now."""
        taken: list[Transaction] = []
        if self.stopping or lane.pool.dead is not None:
            return taken
        stocks, now, short = self._open[lane], self._loop.time(), False
        for stock in stocks:
            allowed = self._take_from(stock, lane, room, taken, now)
            missing = room - len(taken)
            stock.wanted = max(stock.wanted, missing * self.composer.per_transaction)
            short = short or stock.short()
            if not (missing and allowed):
                break
        if len(stocks) > 1:
            stocks.append(stocks.pop(0))
        if short:
            self._claim()
        return taken

    def _take_from(self, stock: Stock, lane: Lane, room: int, taken: list[Transaction], now: float) -> bool:
        """Add to `taken` what is ready and allowed, up to `room`. False: the limits allow no more now."""
        self._compose_up_to(stock, room - len(taken))
        relay, ready = self._by_pool[lane.pool], stock.ready
        limited = self._pacing.limits(relay, lane)
        while ready and len(taken) < room:
            if len(ready[0].rcpts) > relay.batch:
                ready.extendleft(reversed(split(ready.popleft(), relay.batch)))
            count = len(ready[0].rcpts)
            if limited and not self._pacing.grant(relay, lane, count, now):
                return False
            taken.append(ready.popleft())
            stock.taken += count
        return True

    def _compose_up_to(self, stock: Stock, room: int | None) -> None:
        while (claimed := stock.next_to_compose(room)) is not None:
            self._compose(stock, *claimed)

    def _wake_pools(self) -> None:
        for relay in self.relays:
            relay.pool.wake()

    @entry
    def settle(self, lane: Lane, finished: list[Transaction]) -> None:
        relay = self._by_pool[lane.pool]
        rest, first, again, size = settle_delivered(finished, self._details, *relay.ids(lane), self._dirty)
        if first or again:
            self._count_delivered(relay, lane, first, again, size)
            if self._on_event:
                self._outcomes.show_delivered(finished, relay, lane)
        for tx in rest:
            self._settle_one(relay, lane, tx)
        if len(self._details) >= COMMIT_RECIPIENTS:
            self._commit()
        else:
            self._flush_soon()
        if self.stopping or not any(stock.ready or stock.claimed for stock in self._stocks.values()):
            self._look_for_end()

    def _count_delivered(self, relay: Relay, lane: Lane, first: int, again: int, size: int) -> None:
        tally, count = self.tally, first + again
        tally.move("pending", "delivered", first)
        tally.move("deferred", "delivered", again)
        tally.sent += count
        tally.counts.attempts += count
        tally.counts.bytes += size
        for one in relay.tallies(lane):
            one.delivered += count
        relay.took_one()
        self._dirty |= self._outcomes.proved(relay)

    def _settle_one(self, relay: Relay, lane: Lane, tx: Transaction) -> None:
        elsewhere = self._regroup(relay, tx)
        if len(elsewhere) == len(tx.rcpts):
            return
        if tx.state == NOT_TAKEN and (tx.tries < self._outcomes.MAX_TRIES or self.stopping):
            self._requeue(tx)
        elif self._outcomes.sender_refused(tx):
            given_up = relay.refused_us(self._outcomes.refusing_reply(tx))
            if given_up or self.stopping or not relay.accepted or tx.tries < self._outcomes.MAX_TRIES:
                self._requeue(tx)
            else:
                self._outcomes.settle(tx, relay, lane, self._dirty)
            if given_up:
                self._relay_lost()
        else:
            self._outcomes.settle(tx, relay, lane, self._dirty, elsewhere)
            if tx.judged and tx.reply is not None and tx.reply.code < 300:
                relay.took_one()
                self._dirty |= self._outcomes.proved(relay)
            elif self._outcomes.refused_by(relay) >= (EVERYONE if relay.usable else 1) and not self.stopping:
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
        self._stock(tx).ready.appendleft(tx.again() if tx.state != WAITING else tx)
        if not self.stopping:
            self._wake_pools()

    def _stock(self, tx: Transaction) -> Stock:
        return self._stocks[tx.tag.chunk.route]

    def failed(self, lane: Lane, error: BulkmailError, failures: int) -> float | None:
        relay = self._by_pool[lane.pool]
        pause = relay.pause(lane, error, failures)
        if pause is None:
            self._loop.call_soon(self._relay_lost)  # the pool notes that it is dead when we return
        else:
            if not lane.pausing:  # else it has been told of a failure beside this one
                self._notices.paused(relay, lane, pause, error)
            self._loop.call_soon(self._stop_if_stranded)
        return pause

    @entry
    def _stop_if_stranded(self) -> None:
        """Stop when those who are left can go by no egress that has worked within its relay's patience."""
        if self.stopping or any(stock.under_way() > stock.held() for stock in self._stocks.values()):
            return
        waiting = [stock for stock in self._stocks.values() if stock.due is not None or stock.left()]
        lanes = [lane for lane, stocks in self._open.items() if any(stock in stocks for stock in waiting)]
        usable = [lane for lane in lanes if lane.pool.dead is None]
        if waiting and usable and all(self._lost_patience(lane) for lane in usable):
            error = copy.copy(usable[0].last_error)
            assert isinstance(error, BulkmailError)
            said = "; ".join(f"egress {lane.name}: {lane.last_error}" for lane in usable)
            error.args = (f"no egress is left for {', '.join(stock.route for stock in waiting)}: {said}",)
            self._halt(error)

    def _lost_patience(self, lane: Lane) -> bool:
        since = lane.out_since
        return since is not None and self._loop.time() - since >= self._by_pool[lane.pool].patience

    @entry
    def _relay_lost(self) -> None:
        """A relay was given up: the others take over, or nobody is left."""
        for relay in self.relays:
            if not relay.usable:
                self._put_back(relay)
        if any(relay.usable for relay in self.relays):
            self._wake_pools()
            return
        error = copy.copy(self.relays[-1].pool.dead)
        assert isinstance(error, BulkmailError)
        error.args = ("; ".join(f"relay {relay.name} was given up: {relay.pool.dead}" for relay in self.relays),)
        self._halt(error)

    def _put_back(self, relay: Relay) -> None:
        """What its sessions were given and did not begin."""
        for tx in reversed(relay.pool.recall()):
            self._stock(tx).ready.appendleft(tx)

    def event(self, lane: Lane, name: str, session: Session | None, error: BaseException | None) -> None:
        self._notices.event(self._by_pool[lane.pool], lane, name, session, error)
        if not self.done.done():
            self._flush_soon()

    # -- claims and commits

    def _claim(self) -> None:
        """Claim the next recipients of each route that is short of them, and commit that with whatever else is due."""
        if self._committing or self.stopping:
            return
        picked, changed = claim_for(self._stocks.values(), self._loop.time(), self._pacing.rate())
        self._dirty.update(changed)
        self._leases.fetch_if_low()
        if picked:
            self._commit(picked)

    def _flush_soon(self) -> None:
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(COMMIT_SECONDS, self._flush)

    @entry
    def _flush(self) -> None:
        self._flush_timer = None
        self._commit()

    def _commit(self, picked: Iterable[tuple[Work, Places]] = ()) -> None:
        if self._committing or self.done.done():
            return
        advance = self._collect()
        if advance is None:
            self._look_for_end()
            return
        self._committing = True
        self.writer.submit(advance, lambda error: self._on_commit(error, picked))

    def _collect(self) -> Advance | None:
        """Everything that has changed since the last commit."""
        idle = all(stock.exhausted and not stock.ready and not stock.under_way() for stock in self._stocks.values())
        retries, moved = self._outcomes.take_retries(self._loop.time(), idle or self.stopping)
        self._dirty |= moved
        troubles, news = self._outcomes.take_troubles(), self._notices.take_news()
        if not (self._dirty or troubles or len(self._details) or news):
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
        for retry in retries:
            self._stocks[retry.route].exhausted = False
        for work in self._dirty:
            if work.finished():
                self._stocks[work.chunk.route].works.pop(work.no, None)
        self._dirty.clear()
        return advance

    @entry
    def _on_commit(self, error: BaseException | None, claimed: Iterable[tuple[Work, Places]]) -> None:
        self._committing = False
        if error is not None:
            self.ledger_failed(error, "written")
            return
        for work, places in claimed:
            stock = self._stocks[work.chunk.route]
            stock.claimed.append((work, places))
            if self.composer.signers is not None and not self.stopping:
                self._compose_up_to(stock, None)  # signing takes longer than the message stays in a cache
        if not self.stopping:
            self._leases.fetch_if_low()
            if claimed:
                self._wake_pools()
            elif self._wanting():
                self._claim()
        if self._dirty or len(self._details):
            self._flush_soon()
        self._look_for_end()

    def _wanting(self) -> bool:
        """Whether pools asked for more than there was."""
        return any(stock.wanted for stock in self._stocks.values())

    def _compose(self, stock: Stock, work: Work, places: Places) -> None:
        date = formatdate(time.time(), localtime=True).encode()
        try:
            stock.ready.extend(self.composer.compose(work, places, date))
            stock.signing += len(places) if self.composer.signers is not None else 0
        except JournalError as changed:  # the recipients' file is not what it was
            self._outcomes.release(work, places, self._dirty)
            self._halt(changed)
        self._settle_failures(work)

    @entry
    def _on_signed(
        self, work: Work, places: Places, transactions: list[Transaction], error: BaseException | None
    ) -> None:
        stock = self._stocks[work.chunk.route]
        stock.signing -= len(places)
        stock.ready.extend(transactions)
        self._settle_failures(work)
        if error is not None:  # nobody can be sent to without a signature
            self._outcomes.release(work, places, self._dirty)
            if not isinstance(error, BulkmailError):
                error = MessageError(f"the message cannot be signed: {error}")
            self._halt(error)
        if self.stopping:
            self._look_for_end()
        else:
            self._wake_pools()

    def _settle_failures(self, work: Work) -> None:
        """Those whose message could not be composed."""
        for place, address, error in self.composer.take_failures():
            self._outcomes.fail(work, place, address, error, self._dirty)
            self._flush_soon()

    @entry
    def leased(self, found: bool) -> None:
        """The ledger was asked for chunks."""
        if found:
            if self._wanting():
                self._claim()
            self._wake_pools()
        self._leases.fetch_if_low()
        self._look_for_end()

    # -- the end

    def _look_for_end(self) -> None:
        """Is everybody settled, or, when stopping, everything that was begun?"""
        if self.done.done() or self._committing or self._leases.busy:
            return
        if self.stopping:
            self._release()  # at once: whoever is killed while the last replies are awaited leaves only those in doubt
            if self._dirty or len(self._details):
                self._commit()
            elif not any(stock.under_way() for stock in self._stocks.values()):
                self.done.set_result(self._halting)
            return
        if self._leases.waiting or not all(s.exhausted and s.idle() for s in self._stocks.values()):
            return
        for relay in self.relays:
            self._dirty |= self._outcomes.proved(relay)  # what it refused, it has refused
        if self._dirty or len(self._details) or self._outcomes.has_retries:
            self._commit()
        else:
            self._finish_or_wait()

    def _finish_or_wait(self) -> None:
        if self.tally.counts.pending or self.tally.counts.deferred:
            for stock in self._stocks.values():
                stock.exhausted = False  # chunks were added since the last look
            self._leases.fetch_if_low()
        else:
            self.done.set_result(None)

    def _release(self) -> None:
        """Claimed and certainly not sent: moved to chunks of their own, to be sent by the next run."""
        for stock in self._stocks.values():
            while stock.ready:
                tx = stock.ready.popleft()
                self._outcomes.release(tx.tag, [tx.at] if tx.positions is None else tx.positions, self._dirty)
            while stock.claimed:
                self._outcomes.release(*stock.claimed.popleft(), self._dirty)
        for relay in self.relays:
            self._outcomes.release_unproved(relay, self._dirty)

    def stop(self, error: BulkmailError | None) -> None:
        """Begin nothing more; `done` is set when what is under way has ended and is recorded. error: why, or None."""
        self._halt(error)

    def _halt(self, error: BulkmailError | None) -> None:
        if self.stopping:
            return
        self.stopping, self._halting = True, error
        self.composer.abandon()
        for relay in self.relays:
            self._put_back(relay)
        self._look_for_end()

    def ledger_failed(self, error: BaseException, what: str) -> None:
        """Stop at once: what cannot be recorded need not be waited for."""
        self.stopping = True
        if not isinstance(error, BulkmailError):
            error = JournalError(f"the journal cannot be {what}: {error}")
        if not self.done.done():
            self.done.set_result(error)

    def break_off(self, error: Exception) -> None:
        self.stopping = True
        if not self.done.done():
            self.done.set_exception(error)

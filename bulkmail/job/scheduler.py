"""Which recipient next, by which relay, when; and what each outcome leads to.

It is the `Source` of every relay's pool. Recipients are claimed in the ledger by the batch, and a batch is handed to
the pools only after its claim is committed, and composed only then. Nothing here runs per message: plain deliveries
are settled in Cython, and the rest is rare. What a commit takes along is in `commits`, what failing connections lead to
in `failover`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from bulkmail.errors import BulkmailError, JournalError, MessageError
from bulkmail.job.commits import Commits
from bulkmail.job.compose import Composer, date_field, split
from bulkmail.job.detail import DetailBuffer
from bulkmail.job.ending import Ending
from bulkmail.job.failover import Failover
from bulkmail.job.leases import Leases, entry
from bulkmail.job.notices import Notices
from bulkmail.job.outcomes import EVERYONE, Outcomes
from bulkmail.job.pacing import Pacing
from bulkmail.job.relay import Relay
from bulkmail.job.retry import Retries
from bulkmail.job.routes import Route
from bulkmail.job.settle import Work, settle_delivered
from bulkmail.job.slowing import Slowing
from bulkmail.job.specs import DomainLimit
from bulkmail.job.stock import COMPOSED, Claim, Kin, Places, Stock, Stocks
from bulkmail.job.stop_rules import StopRules
from bulkmail.job.tally import Tally
from bulkmail.job.timing import NO_PLAN, OPERATOR, Plan, Timing
from bulkmail.job.writer import Asked
from bulkmail.pool.lane import NO_LIMIT, Lane
from bulkmail.pool.limits import Limit, reserve
from bulkmail.pool.pool import Pool
from bulkmail.smtp.session import Session
from bulkmail.wire.transaction import NOT_TAKEN, WAITING, Transaction


class Scheduler(Ending):
    """composer, relays: what to send and by whom; routes: those in the ledger that have recipients; writer: the
    ledger's thread; tally: the figures that it keeps; limit, connections, domains: see job.pacing.

    pacing  the limits, and who may change them; filling: recipients are still added to the ledger (expect, leased)
    done    future: None when every recipient has its outcome, or the error that stopped the run; an exception is a bug
    """

    def __init__(
        self,
        *,
        composer: Composer,
        relays: list[Relay],
        routes: Iterable[str],
        writer: Asked,
        tally: Tally,
        limit: Limit,
        retries: Retries,
        connections: int | None = None,
        domains: Iterable[DomainLimit] = (),
        stop_rules: StopRules | None = None,
        on_event: Callable[[dict[str, Any]], None] | None,
        plan: Plan = NO_PLAN,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.composer, self.relays, self.writer, self.tally = composer, relays, writer, tally
        self.done: asyncio.Future[BulkmailError | None] = self._loop.create_future()
        self._on_event = on_event
        self._notices = Notices(on_event)
        told = self._allowed_again, self._limits_changed
        self.pacing = Pacing(self._loop, limit, relays, *told, connections=connections, domains=domains)
        self._by_pool: dict[Pool, Relay] = {}
        composer.on_signed = self._on_signed
        self.stocks = self._stocks = Stocks(map(self._stock, routes), composer.ahead)
        self._leases = Leases(self, writer, self._stocks)
        self._details = DetailBuffer(time.time() - self._loop.time())
        self._rules = stop_rules or StopRules()
        self._begun_with = tally.counts.attempts
        self._outcomes = Outcomes(tally, retries, self._rules, self._details, composer.compiled.message_id, on_event)
        self._commits = Commits(
            self, writer, self._stocks, self._outcomes, self._details, self._notices, tally.progress
        )
        self._failover = Failover(
            self, relays, self._stocks, self._may_carry, self._notices, self.pacing.wait, self._transactions_left
        )
        self._halting: BulkmailError | None = None
        self.stopping = self.filling = False
        self._holds: set[str] = set()  # who has paused it
        self._slowing = Slowing(plan.adaptive, self.pacing, relays, self._notices)
        self._timing = Timing(self, plan, self.pacing, tally, self._notices)

    @property
    def clock_offset(self) -> float:
        """Unix time minus the loop's, as it was when this run began."""
        return self._details.offset

    @property
    def paused(self) -> bool:
        """By its operator."""
        return OPERATOR in self._holds

    @property
    def holding(self) -> bool:
        """Nothing new is begun."""
        return self.stopping or bool(self._holds)

    def start(self) -> None:
        self._by_pool = {relay.pool: relay for relay in self.relays}
        self.pacing.start()
        self._failover.start()
        if not self._stocks:
            self._loop.call_soon(self.look_for_end)
        self._slowing.start(self._stocks)
        self._timing.look()
        self._leases.fetch_if_low()

    def _stock(self, route: str) -> Stock:
        size, limit = self.composer.per_transaction, self.pacing.group(Route.parse(route).pattern)
        return Stock(route, size if limit is None or limit.rate is None else min(size, limit.burst), limit)

    def _may_carry(self, lane: Lane, stock: Stock) -> bool:
        return self._by_pool[lane.pool].carries(stock.pattern, lane)

    def _transactions_left(self) -> int:
        return (self.tally.counts.pending + self.tally.counts.deferred) // self.composer.per_transaction

    def expect(self, route: str) -> None:
        if not self._stocks.knows(route):
            stock = self._stock(route)
            self._failover.expect(stock)
            self._slowing.expect(stock)
        self._stocks.expect(route)

    # -- the pools' Source

    def backlog(self, lane: Lane) -> int:
        """What could be sent now: enough to say whether another connection would have work."""
        if self.holding or lane.pool.dead is not None or not self.pacing.allows(lane):
            return 0
        return -(-self._stocks.backlog(lane) // self.composer.per_transaction)

    @entry
    def take(self, lane: Lane, room: int) -> list[Transaction]:
        """Transactions whose claims are committed, as many as the limits allow now."""
        taken: list[Transaction] = []
        if self.holding or lane.pool.dead is not None:
            return taken
        relay, now = self._by_pool[lane.pool], self._loop.time()
        room = self._failover.room(relay, room, now)
        if not room:
            return taken
        kins, short = self._stocks.open_to(lane), False
        for kin in kins:
            allowed = self._take_from(kin, lane, room, taken, now)
            missing = room - len(taken)
            if missing:
                kin.wanted = max(kin.wanted, missing * self.composer.per_transaction)
            short = short or kin.short()
            if not (missing and allowed):
                break
        if len(kins) > 1:
            kins.append(kins.pop(0))
        self._failover.took(relay, len(taken))
        if short:
            self._claim()
        return taken

    def _take_from(self, kin: Kin, lane: Lane, room: int, taken: list[Transaction], now: float) -> bool:
        """Add to `taken` what is ready and allowed, up to `room`. False: the lane's limits allow no more now."""
        for _ in range(len(kin.rota)):
            if len(taken) >= room:
                break
            stock = next(iter(kin.rota))
            if stock.claimed:
                least = COMPOSED if len(kin.rota) > 1 else 0
                self._compose_up_to(stock, max(least, room - len(taken)))
            allowed = self._hand_out(stock, lane, room, taken, now)
            self._stocks.had_its_turn(stock)
            if not allowed and not self._passed_over(stock, lane, now):
                return False
        return True

    def _hand_out(self, stock: Stock, lane: Lane, room: int, taken: list[Transaction], now: float) -> bool:
        """Add to `taken` what of this stock is ready, up to `room`. False: some limit does not allow all of it."""
        if self.composer.per_transaction > 1:
            return self._hand_out_shared(stock, lane, room, taken, now)
        limits = self.pacing.limits(lane, stock.limit) or None
        wanted = count = min(len(stock.ready), room - len(taken))
        if limits is not None:
            count = reserve(limits, wanted, 1, now, lane.at_once - len(taken))
        stock.kin.taken += stock.hand_out(taken, count, limits)
        return count == wanted

    def _hand_out_shared(self, stock: Stock, lane: Lane, room: int, taken: list[Transaction], now: float) -> bool:
        """A transaction is granted whole, so it is no larger than what may leave at once."""
        limits, ready = self.pacing.limits(lane, stock.limit) or None, stock.ready
        most = min((limit.burst for limit in limits or () if limit.rate is not None), default=NO_LIMIT)
        most = min(most, self._by_pool[lane.pool].batch)
        while ready and len(taken) < room:
            if len(ready[0].rcpts) > most:
                ready.extendleft(reversed(split(ready.popleft(), most)))
            count = len(ready[0].rcpts)
            if limits is not None and not reserve(limits, 1, count, now, lane.at_once - len(taken)):
                return False
            stock.kin.taken += stock.hand_out(taken, 1, limits)
        return True

    def _passed_over(self, stock: Stock, lane: Lane, now: float) -> bool:
        """Whether only this stock is not allowed more now, and others may go on."""
        group, count = stock.limit, len(stock.ready[0].rcpts)
        if group is not None and group.places() < 1:
            self._stocks.park(stock, None)
            return True
        wait = group.wait(now, count) if group is not None else 0.0
        if wait > 0:
            self._stocks.park(stock, now + wait)
        else:
            self._stocks.pass_over(stock)
            wait = self.pacing.wait(lane, count, now)
        if wait > 0:
            self.pacing.ring_in(wait)
        return stock.parked or wait <= 0

    def _compose_up_to(self, stock: Stock, room: int = -1) -> None:
        """room: transactions that should be ready; -1: all of them."""
        while (claimed := stock.next_to_compose(room)) is not None:
            self._compose(stock, *claimed)

    def wake_pools(self) -> None:
        for relay in self.relays:
            relay.pool.wake()

    @entry
    def _allowed_again(self) -> None:
        """Some limit allows more than when somebody was told to wait."""
        now = self._loop.time()
        due = self._stocks.unpark(now)
        if due is not None:
            self.pacing.ring_in(due - now)
        self.wake_pools()

    def _limits_changed(self, less: bool) -> None:
        """less: what sessions hold and have not begun is to be allowed anew."""
        self._stocks.unpark(math.inf)
        for relay in self.relays if less else ():
            self._failover.put_back(relay)
        self.wake_pools()

    @entry
    def settle(self, lane: Lane, finished: list[Transaction]) -> None:
        relay, dirty = self._by_pool[lane.pool], self._commits.dirty
        rest, first, again, size = settle_delivered(finished, self._details, *relay.ids(lane), dirty)
        if first or again:
            self._count_delivered(relay, lane, first, again, size)
            if self._on_event:
                self._outcomes.show_delivered(finished, relay, lane)
        self._slowing.learn(relay, lane, rest)
        if rest:
            self._settle_others(relay, lane, rest)
        if self._rules.changed:
            self._stop_if_told()
        self._commits.soon(settled=True)
        if self._stocks.crowded and self._stocks.uncrowd():
            self.wake_pools()
        if self.holding or not self._stocks.in_hand():
            self.look_for_end()

    def _settle_others(self, relay: Relay, lane: Lane, rest: list[Transaction]) -> None:
        for tx in rest:
            if self._failover.trial_failed(relay, tx):
                self._requeue(tx)
                continue
            self._settle_one(relay, lane, tx)
            if self._failover.judge(relay, tx):
                self._outcomes.release_unproved(relay, self._commits.dirty)

    def _stop_if_told(self) -> None:
        """By a rule of the manifest's."""
        told = self._rules.reached(self.tally.counts.attempts - self._begun_with)
        if told is not None:
            self.stop(told)

    def _count_delivered(self, relay: Relay, lane: Lane, first: int, again: int, size: int) -> None:
        self.tally.delivered(first, again, size)
        for one in relay.tallies(lane):
            one.delivered += first + again
        self._took_one(relay)

    def _took_one(self, relay: Relay) -> None:
        self._failover.took_one(relay)
        if relay in self._outcomes.unproved:
            self._commits.dirty |= self._outcomes.proved(relay)

    def _settle_one(self, relay: Relay, lane: Lane, tx: Transaction) -> None:
        elsewhere, parts = relay.regroup(tx)
        for part in parts:
            self._requeue(part)
        if len(elsewhere) == len(tx.rcpts):
            return
        if tx.state == NOT_TAKEN and (tx.tries < self._outcomes.MAX_TRIES or self.stopping):
            self._requeue(tx)
        elif self._outcomes.sender_refused(tx):
            given_up = relay.refused_us(self._outcomes.refusing_reply(tx))
            if given_up or self.stopping or not relay.accepted or tx.tries < self._outcomes.MAX_TRIES:
                self._requeue(tx)
            else:
                self._outcomes.settle(tx, relay, lane, self._commits.dirty)
            if given_up:
                self._failover.relay_lost()
        else:
            self._outcomes.settle(tx, relay, lane, self._commits.dirty, elsewhere)
            if tx.judged and tx.reply is not None and tx.reply.code < 300:
                self._took_one(relay)
            elif self._outcomes.refused_by(relay) >= (EVERYONE if relay.usable else 1) and not self.stopping:
                relay.refuses_everyone(self._outcomes.refused_by(relay))
                self._outcomes.release_unproved(relay, self._commits.dirty)
                self._failover.relay_lost()

    def _requeue(self, tx: Transaction) -> None:
        """Certainly not taken: it goes first on the next connection. Its claim stands."""
        self._stocks.put_back(tx.again() if tx.state != WAITING else tx)
        if not self.stopping:
            self.wake_pools()

    def failed(self, lane: Lane, error: BulkmailError, failures: int) -> float | None:
        relay = self._by_pool[lane.pool]
        self._slowing.failed(relay, lane, error)
        return self._failover.failed(relay, lane, error, failures)

    def event(self, lane: Lane, name: str, session: Session | None, error: BaseException | None) -> None:
        self._notices.event(self._by_pool[lane.pool], lane, name, session, error)
        if name == "resumed":
            self._loop.call_soon(self._failover.look)
        if not self.done.done():
            self._commits.soon()

    # -- claims

    def _claim(self) -> None:
        """Claim the next recipients of each route that is short of them, and commit that with whatever else is due."""
        if not self._commits.busy and (picked := self.claim()):
            self._commits.commit(picked)

    def claim(self, beside: bool = False) -> list[Claim]:
        if self.holding or self.done.done():
            return []
        picked, changed = self._stocks.claim(self._loop.time(), self.pacing.rate(), beside)
        self._commits.dirty.update(changed)
        self._leases.fetch_if_low()
        return picked

    def committed(self, claimed: list[Claim]) -> None:
        for work, places in claimed:
            stock = self._stocks.of(work)
            stock.claimed.append((work, places))
            self._stocks.have(stock)
            if self.composer.signers is not None and not self.holding:
                self._compose_up_to(stock)  # signing takes longer than the message stays in a cache
        if not self.stopping:
            self._leases.fetch_if_low()
            if claimed:
                self.wake_pools()
            elif self._stocks.wanting():
                self._claim()

    def _compose(self, stock: Stock, work: Work, places: Places) -> None:
        try:
            stock.ready.extend(self.composer.compose(work, places, date_field(int(time.time()))))
            stock.signing += len(places) if self.composer.signers is not None else 0
        except JournalError as changed:  # the recipients' file is not what it was
            self._outcomes.release(work, places, self._commits.dirty)
            self.stop(changed)
        if self.composer.failures:
            self._settle_failures(work)

    @entry
    def _on_signed(
        self, work: Work, places: Places, transactions: list[Transaction], error: BaseException | None
    ) -> None:
        stock = self._stocks.of(work)
        stock.signing -= len(places)
        stock.ready.extend(transactions)
        self._stocks.have(stock)
        self._settle_failures(work)
        if error is not None:  # nobody can be sent to without a signature
            self._outcomes.release(work, places, self._commits.dirty)
            if not isinstance(error, BulkmailError):
                error = MessageError(f"the message cannot be signed: {error}")
            self.stop(error)
        if self.holding:
            self.look_for_end()
        else:
            self.wake_pools()

    def _settle_failures(self, work: Work) -> None:
        """Those whose message could not be composed."""
        for place, address, error in self.composer.take_failures():
            self._outcomes.fail(work, place, address, error, self._commits.dirty)
            self._stop_if_told()
            self._commits.soon()

    @entry
    def leased(self, found: bool) -> None:
        """The ledger was asked for chunks."""
        if found:
            if self._stocks.wanting():
                self._claim()
            self.wake_pools()
        self._leases.fetch_if_low()
        self.look_for_end()

    # -- the end

    def look_for_end(self) -> None:
        """Is everybody settled, or, when stopping, everything that was begun?"""
        if self.done.done() or self._commits.busy or self._leases.busy:
            return
        if self.holding:
            self._release()  # at once: whoever is killed while the last replies are awaited leaves only those in doubt
        if self.stopping:
            if self._commits.anything():
                self._commits.commit()
            elif not any(stock.under_way() for stock in self._stocks):
                self.done.set_result(self._halting)
            return
        if self.holding and self._commits.anything():
            self._commits.commit()
            return
        if self._leases.waiting or not self._stocks.idle():
            return
        for relay in self.relays:
            self._commits.dirty |= self._outcomes.proved(relay)  # what it refused, it has refused
        if self._commits.anything() or self._outcomes.has_retries:
            self._commits.commit()
        else:
            self._finish_or_wait()

    def _finish_or_wait(self) -> None:
        if self.tally.counts.pending or self.tally.counts.deferred:
            for stock in self._stocks:
                self._stocks.look_again(stock)  # chunks were added since the last look
            self._leases.fetch_if_low()
        elif not self.filling:
            self.done.set_result(None)

    def _release(self) -> None:
        """Claimed and certainly not sent: moved to chunks of their own, to be sent by the next run."""
        for work, places in self._stocks.take_unsent():
            self._outcomes.release(work, places, self._commits.dirty)
        for relay in self.relays:
            self._outcomes.release_unproved(relay, self._commits.dirty)

    def pause(self, by: str = OPERATOR) -> None:
        """Begin nothing more until resume(); what is under way ends and is recorded. A stop ends the pause.

        Who is claimed and not under way is released: a paused run that is killed leaves nobody in doubt.
        """
        if self.stopping or by in self._holds:
            return
        self._holds.add(by)
        self._timing.turned(by)
        self._commits.soon()
        for relay in self.relays:
            self._failover.put_back(relay)
        self.look_for_end()

    def resume(self, by: str = OPERATOR) -> None:
        """Go on, once all who paused it have resumed it. Relays that failed have their whole patience again."""
        if self.stopping or by not in self._holds:
            return
        self._holds.discard(by)
        self._timing.turned(by)
        self._commits.soon()
        if not self._holds:
            for relay in self.relays:
                relay.forgive(self._loop.time())
            self._leases.fetch_if_low()
            self.wake_pools()

    def stop(self, error: BulkmailError | None) -> None:
        """Begin nothing more; `done` is set when what is under way has ended and is recorded. error: why, or None."""
        if self.stopping:
            return
        self.stopping, self._halting = True, error
        self._holds.clear()
        self._timing.stop()
        self._slowing.stop()
        self.composer.abandon()
        for relay in self.relays:
            self._failover.put_back(relay)
        self.look_for_end()

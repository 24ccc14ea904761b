"""What happens when relays fail: others take over and give the work back, or the run stops."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any, Protocol

from bulkmail.errors import BulkmailError
from bulkmail.job.breaker import CLOSED, NEUTRAL, ON_TRIAL, OPEN, refusal_of
from bulkmail.job.duty import LOOK_SECONDS, Duty
from bulkmail.job.leases import entry
from bulkmail.job.notices import Notices
from bulkmail.job.relay import LONGEST_PAUSE, Relay
from bulkmail.job.stock import Stock, Stocks
from bulkmail.job.turns import Turns
from bulkmail.pool.lane import Lane
from bulkmail.wire.reply import Reply
from bulkmail.wire.transaction import Transaction


class Stopping(Protocol):
    """Who is told."""

    stopping: bool
    done: asyncio.Future[Any]

    def stop(self, error: BulkmailError | None) -> None: ...

    def wake_pools(self) -> None: ...

    def break_off(self, error: Exception) -> None: ...


class Failover:
    """relays: all of the job's; may_carry: whether an egress may carry a route, by the domains alone; wait: seconds
    until its limits let one more leave; left: how many transactions are left.
    """

    def __init__(
        self,
        owner: Stopping,
        relays: list[Relay],
        stocks: Stocks,
        may_carry: Callable[[Lane, Stock], bool],
        notices: Notices,
        wait: Callable[[Lane], float],
        left: Callable[[], int],
    ) -> None:
        self._owner, self._relays, self._stocks = owner, relays, stocks
        self._may_carry, self._notices = may_carry, notices
        self._loop = asyncio.get_running_loop()
        self._duty = Duty(relays, stocks)
        self._wait = wait
        self._turns = Turns(relays, self._can_take, left, owner.wake_pools)
        self._working: dict[Relay, bool] = {}

    def start(self) -> None:
        """The pools are made."""
        self._working = dict.fromkeys(self._relays, True)
        self._duty.start()
        if len(self._relays) > 1:
            self._loop.call_later(LOOK_SECONDS, self._look_often)

    # -- who carries what

    def room(self, relay: Relay, room: int, now: float) -> int:
        """How many of `room` transactions it may take now."""
        if relay.breaker.state != CLOSED:
            room = relay.breaker.room(room)
        return self._turns.room(relay, room, now) if len(self._relays) > 1 else room

    def took(self, relay: Relay, count: int) -> None:
        """So many, after room() was asked."""
        if relay.breaker.state != CLOSED:
            relay.breaker.given(count)
        if len(self._relays) > 1:
            self._turns.took(relay, count)

    def _can_take(self, relay: Relay) -> bool:
        return self._duty.carries(relay) and any(self._wait(lane) <= 0 for lane in relay.pool.lanes)

    def expect(self, stock: Stock) -> None:
        """A route that is new: a retry's."""
        self._stocks.include(stock)
        self._duty.arrange()

    @entry
    def _look_often(self) -> None:
        if not self._owner.done.done():
            self._loop.call_later(LOOK_SECONDS, self._look_often)
            self.look()

    @entry
    def look(self) -> None:
        """Have relays changed? Then others may have to carry their work, or need not any more."""
        if self._owner.stopping or not self._working:
            return
        for relay in self._duty.needed_after_all():
            relay.breaker.close()
        if self._duty.changed():
            self._duty.arrange()
            self._tell_changes()
            self._owner.wake_pools()
        for relay in self._duty.let_go():
            self.put_back(relay)
            relay.pool.rest()

    def _tell_changes(self) -> None:
        now = self._loop.time()
        for relay in self._relays if len(self._relays) > 1 else ():
            worked, self._working[relay] = self._working[relay], relay.works(now)
            if worked and not self._working[relay]:
                self._notices.relay_out(relay)
            elif self._working[relay] and not worked:
                self._notices.relay_back(relay)

    # -- circuits

    def trial_failed(self, relay: Relay, tx: Transaction) -> bool:
        """Whether this was its trial and it has failed. Another relay then takes the work: it costs no attempt."""
        if relay.breaker.state != ON_TRIAL or self._owner.stopping or not self._duty.another_works(relay):
            return False
        refused = refusal_of(tx)
        if refused is None or refused[1] in NEUTRAL:
            return False
        self._open_circuit(relay, refused[0])
        return True

    def judge(self, relay: Relay, tx: Transaction) -> bool:
        """A transaction that is not a plain delivery has ended. True: its relay's circuit is open, now or already.

        What such a relay refused before it ever took a message goes by another.
        """
        refused = refusal_of(tx)
        if refused is None:
            relay.breaker.lost()
            return False
        reply, kind = refused
        relay.breaker.refused(kind)
        if relay.breaker.state == OPEN:
            return True
        if self._owner.stopping or not (relay.breaker.full and relay.usable and self._duty.another_works(relay)):
            return False
        self._open_circuit(relay, reply)
        return True

    def _open_circuit(self, relay: Relay, reply: Reply) -> None:
        relay.tally.last_error = str(reply)
        self._loop.call_later(relay.breaker.open(), self._try_again, relay)
        self.put_back(relay)
        self.look()

    @entry
    def _try_again(self, relay: Relay) -> None:
        relay.breaker.try_it()
        self.look()

    def took_one(self, relay: Relay) -> None:
        """A message was taken."""
        relay.took_one()
        if relay.breaker.state == ON_TRIAL:
            relay.breaker.close()
            self.look()

    # -- connections

    def failed(self, relay: Relay, lane: Lane, error: BulkmailError, failures: int) -> float | None:
        """Seconds until the egress is tried again; None: its relay is given up."""
        pause = relay.pause(lane, error, failures)
        if pause is None and not relay.pool.hopeless() and self._others_go_on(relay):
            pause = LONGEST_PAUSE  # it may come back, and the job does not wait for it
        if pause is None:
            self._loop.call_soon(self.relay_lost)  # the pool notes that it is dead when we return
        else:
            if not lane.pausing:  # else it has been told of a failure beside this one
                self._notices.paused(relay, lane, pause, error)
            self._loop.call_soon(self._stop_if_stranded)
            self._loop.call_soon(self.look)
        return pause

    def _others_go_on(self, relay: Relay) -> bool:
        now = self._loop.time()
        return any(one is not relay and one.usable and not one.lost_patience(now) for one in self._relays)

    @entry
    def _stop_if_stranded(self) -> None:
        """Stop when those who are left can go by no egress that has worked within its relay's patience."""
        if self._owner.stopping or any(stock.under_way() > stock.held() for stock in self._stocks):
            return
        waiting = [stock for stock in self._stocks if stock.due is not None or stock.left()]
        lanes = [lane for relay in self._relays for lane in relay.pool.lanes]
        usable = [lane for lane in lanes if lane.pool.dead is None and not self._carries_none(lane, waiting)]
        if waiting and usable and all(self._lost_patience(lane) for lane in usable):
            error = copy.copy(usable[0].last_error)
            assert isinstance(error, BulkmailError)
            said = "; ".join(f"egress {lane.name}: {lane.last_error}" for lane in usable)
            error.args = (f"no egress is left for {', '.join(stock.route for stock in waiting)}: {said}",)
            self._owner.stop(error)

    def _carries_none(self, lane: Lane, waiting: list[Stock]) -> bool:
        return not any(self._may_carry(lane, stock) for stock in waiting)

    def _lost_patience(self, lane: Lane) -> bool:
        since, patience = lane.out_since, self._relay_of(lane).patience
        return since is not None and self._loop.time() - since >= patience

    def _relay_of(self, lane: Lane) -> Relay:
        return next(relay for relay in self._relays if relay.pool is lane.pool)

    @entry
    def relay_lost(self) -> None:
        """A relay was given up: the others take over, or nobody is left."""
        self._lose_patience()
        for relay in self._relays:
            if not relay.usable:
                self.put_back(relay)
        if any(relay.usable for relay in self._relays):
            self.look()
            self._owner.wake_pools()
            return
        error = copy.copy(self._relays[-1].pool.dead)
        assert isinstance(error, BulkmailError)
        error.args = ("; ".join(f"relay {relay.name} was given up: {relay.pool.dead}" for relay in self._relays),)
        self._owner.stop(error)

    def _lose_patience(self) -> None:
        """Relays that were gone on with for the sake of others that are no more."""
        now = self._loop.time()
        left = [relay for relay in self._relays if relay.usable]
        if all(relay.lost_patience(now) for relay in left):
            for relay in left:
                error = next(lane.last_error for lane in relay.pool.lanes if lane.out)
                assert isinstance(error, BulkmailError)
                relay.pool.give_up(error)

    def put_back(self, relay: Relay) -> None:
        """What its sessions were given and did not begin."""
        relay.breaker.lost()
        for tx in reversed(relay.pool.recall()):
            self._stocks.put_back(tx)

    def break_off(self, error: Exception) -> None:
        self._owner.break_off(error)

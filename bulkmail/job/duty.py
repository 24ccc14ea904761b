"""Which relay carries which route now: those that work before those that are out, backups for want of others."""

from __future__ import annotations

import asyncio
from typing import Final

from bulkmail.job.breaker import CLOSED, OPEN
from bulkmail.job.relay import Relay
from bulkmail.job.routes import Route
from bulkmail.job.stock import Stock, Stocks
from bulkmail.pool.lane import Lane
from bulkmail.pool.pool import Pool

LOOK_SECONDS: Final = 1.0  # how often a job of several relays looks at how they are, besides when they tell


class Duty:
    """relays: all of the job's; what each of their lanes may carry is told to `stocks`."""

    def __init__(self, relays: list[Relay], stocks: Stocks) -> None:
        self._relays, self._stocks = relays, stocks
        self._loop = asyncio.get_running_loop()
        self._by_pool: dict[Pool, Relay] = {}
        self._carrying: set[Relay] = set()
        self._seen: object = None

    def start(self) -> None:
        self._by_pool = {relay.pool: relay for relay in self._relays}
        self.arrange()

    def changed(self) -> bool:
        """Whether a relay is not as it was when the work was dealt out last."""
        now = self._loop.time()
        return [relay.condition(now) for relay in self._relays] != self._seen

    def arrange(self) -> None:
        """Deal the routes out anew."""
        now = self._loop.time()
        self._seen = [relay.condition(now) for relay in self._relays]
        carriers = {stock: set(self.carriers(stock.route, now)) for stock in self._stocks}
        self._carrying = set().union(*carriers.values())

        def carries(stock: Stock, lane: Lane) -> bool:
            relay = self._by_pool[lane.pool]
            return relay in carriers[stock] and relay.carries(stock.pattern, lane)

        self._stocks.open([lane for relay in self._relays for lane in relay.pool.lanes], carries)

    def carries(self, relay: Relay) -> bool:
        """Whether there is a route that it carries now."""
        return relay in self._carrying

    def let_go(self) -> list[Relay]:
        """Backups that have connections and no work any more."""
        spare = [relay for relay in self._relays if relay.spec.backup and relay.usable]
        return [relay for relay in spare if relay.pool.connected and relay not in self._carrying]

    def carriers(self, route: str, now: float) -> list[Relay]:
        """The relays that carry a route now: the best that there are, and those before them that are to be tried."""
        if len(self._relays) == 1:
            return self._relays
        wanted = Route.parse(route)
        found: list[Relay] = []
        for tier in self._tiers(wanted):
            able = [relay for relay in tier if relay.usable and relay.breaker.state != OPEN and relay not in found]
            found += able
            if any(relay.works(now, wanted.pattern) for relay in able):
                return found
        return [relay for relay in self._relays if relay.usable]

    def _tiers(self, route: Route) -> list[list[Relay]]:
        """Best first."""
        own = [relay for relay in self._relays if relay.name == route.relay]
        main = [relay for relay in self._relays if not relay.spec.backup]
        backups = [relay for relay in self._relays if relay.spec.backup]
        if not own:
            return [main, backups]
        if route.same:
            return [own, main, backups]
        others = [[relay for relay in tier if relay not in own] for tier in (main, backups)]
        return [*others, own]

    def another_works(self, relay: Relay) -> bool:
        """Whether the others can do without this one."""
        now = self._loop.time()
        return any(other is not relay and other.works(now) for other in self._relays)

    def needed_after_all(self) -> list[Relay]:
        """Those whose circuit is not closed while no other relay works."""
        broken = [relay for relay in self._relays if relay.usable and relay.breaker.state != CLOSED]
        return [relay for relay in broken if not self.another_works(relay)]

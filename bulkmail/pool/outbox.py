"""What a Mailer has to send, by route: a recipient's domain decides which egresses may carry it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator

from bulkmail.pool.domains import ELSEWHERE, Pins
from bulkmail.wire.transaction import Transaction


class Outbox:
    """Transactions that wait, oldest first in each route.

    All recipients of a transaction are of one route (`routes`).
    """

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._queues: dict[str, deque[Transaction]] = {}

    def routes(self, addresses: list[bytes]) -> list[list[int]] | None:
        """The places of the addresses, by route; None: they are all of one."""
        if not self._pins.rules:
            return None
        groups: dict[str, list[int]] = {}
        for place, address in enumerate(addresses):
            groups.setdefault(self._pins.route(address), []).append(place)
        return list(groups.values()) if len(groups) > 1 else None

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, tx: Transaction) -> None:
        self._queue(tx).append(tx)

    def extend(self, transactions: Iterable[Transaction]) -> None:
        if self._pins.rules:
            for tx in transactions:
                self.add(tx)
        else:
            self._of_route(ELSEWHERE).extend(transactions)

    def put_back(self, transactions: Iterable[Transaction]) -> None:
        """They go first again, in this order."""
        for tx in reversed(list(transactions)):
            self._queue(tx).appendleft(tx)

    def _queue(self, tx: Transaction) -> deque[Transaction]:
        return self._of_route(self._pins.route(tx.rcpts[0]) if self._pins.rules else ELSEWHERE)

    def _of_route(self, route: str) -> deque[Transaction]:
        queue = self._queues.get(route)
        if queue is None:
            queue = self._queues[route] = deque()
        return queue

    def open_to(self, egress: str | None) -> list[deque[Transaction]]:
        """The queues, none of them empty, that this egress may serve; first the one that had its turn longest ago."""
        return [self._queues[route] for route in self._open_to(egress)]

    def turn(self, egress: str | None) -> list[deque[Transaction]]:
        """As open_to; the first one has had its turn."""
        routes = self._open_to(egress)
        found = [self._queues[route] for route in routes]
        if len(routes) > 1:
            self._queues[routes[0]] = self._queues.pop(routes[0])
        return found

    def _open_to(self, egress: str | None) -> list[str]:
        return [route for route, queue in self._queues.items() if queue and self._pins.allows(route, egress)]

    def stranded(self, egresses: Collection[str | None]) -> list[str]:
        """The routes with something in their queues that none of these egresses may serve."""
        waiting = [route for route, queue in self._queues.items() if queue]
        return [route for route in waiting if not any(self._pins.allows(route, egress) for egress in egresses)]

    def drop(self, unwanted: Callable[[Transaction], bool]) -> int:
        """Forget those; how many there were."""
        before = len(self)
        for route, queue in self._queues.items():
            self._queues[route] = deque(tx for tx in queue if not unwanted(tx))
        return before - len(self)

    def empty(self, route: str | None = None) -> Iterator[Transaction]:
        """Each of them (of a route), taken out; also those that are put in meanwhile."""
        while queues := [queue for name, queue in self._queues.items() if queue and route in (None, name)]:
            for queue in queues:
                while queue:
                    yield queue.popleft()

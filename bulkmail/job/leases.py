"""Chunks fetched from the ledger before the stocks run out of them, and again when deferred ones are due."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol, TypeVar

from bulkmail.job.settle import Work
from bulkmail.job.stock import Stock, Stocks
from bulkmail.job.writer import Asked, Lease

ROUTES_AT_ONCE = 32  # routes that one call to the ledger's thread fetches for: others wait for it meanwhile
LONGEST_WAIT = 3600.0  # seconds of one timer; then the clock is looked at again

Entry = TypeVar("Entry", bound=Callable[..., Any])


def entry(method: Entry) -> Entry:
    """For what a pool, the writer or a timer calls: an exception that we did not expect ends the run, and is its end.

    The loop would log it and go on, and the run would wait for ever for what was lost with it.
    """

    @functools.wraps(method)
    def guarded(self: Any, *args: Any) -> Any:
        try:
            return method(self, *args)
        except Exception as error:
            self.break_off(error)
            return []

    return guarded  # type: ignore[return-value]


class Leasing(Protocol):
    """Who the leases are for."""

    stopping: bool

    def leased(self, found: bool) -> None:
        """A lease has ended. found: there are new chunks."""

    def ledger_failed(self, error: BaseException, what: str) -> None: ...

    def break_off(self, error: Exception) -> None: ...


class Leases:
    """stocks: of all routes. One call is under way at most: `busy`; deferred chunks are awaited: `waiting`."""

    def __init__(self, owner: Leasing, writer: Asked, stocks: Stocks) -> None:
        self._owner, self._writer, self._stocks = owner, writer, stocks
        self._loop = asyncio.get_running_loop()
        self._ahead = time.time() - self._loop.time()
        self._due_timer: asyncio.TimerHandle | None = None
        self._due: dict[Stock, None] = {}  # those whose `due` is set
        self.busy = False

    @property
    def waiting(self) -> bool:
        return self._due_timer is not None

    def _now(self) -> float:
        """Unix seconds that do not jump with the system's clock: a retry waits as long as it was told to."""
        return self._loop.time() + self._ahead

    def fetch_if_low(self) -> None:
        """Chunks for the routes that are low; for those first that have been for longest."""
        low = self._stocks.low
        if self.busy or self._owner.stopping or not low:
            return
        asked = []
        for stock in list(islice(low, ROUTES_AT_ONCE)):
            del low[stock]
            if stock.low(self._stocks.enough):
                asked.append(stock)
        if asked:
            self.busy = True
            answer = functools.partial(self._on_lease, asked)
            self._writer.lease_each([stock.route for stock in asked], self._stocks.chunks, self._now(), answer)

    @entry
    def _on_lease(self, asked: list[Stock], leases: list[Lease], error: BaseException | None) -> None:
        self.busy = False
        if error is not None:
            self._owner.ledger_failed(error, "read")
            return
        exhausted = False
        for stock, (chunks, next_due) in zip(asked, leases, strict=True):
            for chunk in chunks:
                self._stocks.add(stock, Work(chunk))
            if not chunks:
                exhausted = True
                stock.exhausted, stock.due = True, next_due
                if next_due is not None:
                    self._due[stock] = None
            elif stock.low(self._stocks.enough):
                self._stocks.low[stock] = None
        if exhausted:
            self._await_retries()
        self._owner.leased(any(chunks for chunks, _ in leases))

    def _await_retries(self) -> None:
        """Look again when the first chunk is due."""
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        due = min((stock.due for stock in self._due if stock.exhausted and stock.due is not None), default=None)
        if due is not None:
            seconds = min(max(due - self._now(), 0.001), LONGEST_WAIT)
            self._due_timer = self._loop.call_later(seconds, self._retry_due)

    @entry
    def _retry_due(self) -> None:
        self._due_timer = None
        now = self._now()
        for stock in list(self._due):
            if stock.due is None or stock.due <= now:
                del self._due[stock]
                self._stocks.look_again(stock)
        self._await_retries()
        self.fetch_if_low()

    def break_off(self, error: Exception) -> None:
        self._owner.break_off(error)

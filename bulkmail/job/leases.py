"""Chunks fetched from the ledger before the stocks run out of them, and again when deferred ones are due."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from bulkmail.job.ledger import Chunk
from bulkmail.job.settle import Work
from bulkmail.job.stock import Stock
from bulkmail.job.writer import Writer

LEASE_CHUNKS = 4  # chunks in hand before their recipients run out: hides the ledger's latency
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
    """stocks: of all routes. One lease is under way at most: `busy`; deferred ones are awaited: `waiting`."""

    def __init__(self, owner: Leasing, writer: Writer, stocks: Iterable[Stock]) -> None:
        self._owner, self._writer, self._stocks = owner, writer, list(stocks)
        self._loop = asyncio.get_running_loop()
        self._due_timer: asyncio.TimerHandle | None = None
        self.busy = False

    @property
    def waiting(self) -> bool:
        return self._due_timer is not None

    def fetch_if_low(self) -> None:
        """Chunks for the route that is lowest."""
        if self.busy or self._owner.stopping:
            return
        low = [stock for stock in self._stocks if stock.low()]
        if low:
            stock = min(low, key=Stock.waiting)
            self.busy = True
            answer = functools.partial(self._on_lease, stock)
            self._writer.lease(LEASE_CHUNKS, time.time(), answer, [stock.route])

    @entry
    def _on_lease(self, stock: Stock, chunks: list[Chunk], next_due: float | None, error: BaseException | None) -> None:
        self.busy = False
        if error is not None:
            self._owner.ledger_failed(error, "read")
            return
        for chunk in chunks:
            stock.works[chunk.no] = Work(chunk)
        if not chunks:
            stock.exhausted, stock.due = True, next_due
            self._await_retries()
        self._owner.leased(bool(chunks))

    def _await_retries(self) -> None:
        """Look again when the first chunk is due."""
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        due = min((stock.due for stock in self._stocks if stock.exhausted and stock.due is not None), default=None)
        if due is not None:
            seconds = min(max(due - time.time(), 0.001), LONGEST_WAIT)
            self._due_timer = self._loop.call_later(seconds, self._retry_due)

    @entry
    def _retry_due(self) -> None:
        self._due_timer = None
        now = time.time()
        for stock in self._stocks:
            if stock.due is not None and stock.due <= now:
                stock.exhausted, stock.due = False, None
        self._await_retries()
        self.fetch_if_low()

    def break_off(self, error: Exception) -> None:
        self._owner.break_off(error)

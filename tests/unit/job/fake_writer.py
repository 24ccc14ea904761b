"""A job's writer without a thread: the ledger's work on the loop's own clock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from bulkmail.job.ledger import Advance, Ledger


class FakeWriter:
    """As job.writer.Writer, on the loop: one piece of work after the other, `seconds` each.

    fail    (number of the commit from 1) -> the error that it ends with, or None
    """

    def __init__(self, ledger: Ledger, seconds: float, fail: Callable[[int], BaseException | None]) -> None:
        self.ledger, self.seconds, self.fail = ledger, seconds, fail
        self.commits: list[Advance] = []
        self.under_way = 0  # commits given and not answered
        self._queue: deque[Callable[[], None]] = deque()
        self._loop = asyncio.get_running_loop()

    def submit(self, batch: Advance, done: Callable[[BaseException | None], None]) -> None:
        self.under_way += 1
        assert self.under_way == 1, "a second commit was given while one was under way"

        def commit() -> None:
            self.commits.append(batch)
            error = self.fail(len(self.commits))
            if error is None:
                self.ledger.advance(batch)
            self.under_way -= 1
            done(error)

        self._put(commit)

    def lease_each(self, routes: list[str], chunks: int, now: float, done: Callable[..., None]) -> None:
        def lease(route: str) -> tuple[Any, Any]:
            leased = self.ledger.lease(chunks, now, [route])
            return leased, None if leased else self.ledger.next_due(now, [route])

        self._put(lambda: done([lease(route) for route in routes], None))

    def die(self) -> None:
        """Nothing more is done, nor answered."""
        self._queue = deque([lambda: None])

    def _put(self, work: Callable[[], None]) -> None:
        self._queue.append(work)
        if len(self._queue) == 1:
            self._loop.call_later(self.seconds, self._step)

    def _step(self) -> None:
        work = self._queue[0]
        work()
        self._queue.popleft()
        if self._queue:
            self._loop.call_later(self.seconds, self._step)

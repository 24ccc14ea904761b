"""What has changed since the last commit, and the commit: one is under way at most.

Outcomes are committed together with the next claim, or by a short timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from bulkmail.job.detail import DetailBuffer
from bulkmail.job.leases import entry
from bulkmail.job.ledger import Advance
from bulkmail.job.notices import Notices
from bulkmail.job.outcomes import Outcomes
from bulkmail.job.settle import Work
from bulkmail.job.stock import Claim, Stocks
from bulkmail.job.writer import Asked

# How long an outcome may wait for a commit: docs/architecture.md, "How much can be in doubt".
COMMIT_SECONDS = 0.01
# Records of deliveries that wait at most, far below what a DetailBuffer takes: a shared message may go to any number of
# recipients at a time.
MOST_DETAILS = 8192


class Committing(Protocol):
    """Who the commits are for."""

    stopping: bool
    done: asyncio.Future[Any]

    def claim(self, beside: bool = False) -> list[Claim]:
        """What is to be claimed with a commit; beside: that is made anyhow."""

    def committed(self, claimed: list[Claim]) -> None:
        """A commit has ended; these claims are in it."""

    def expect(self, route: str) -> None:
        """Chunks of this route are about to be added to the ledger."""

    def look_for_end(self) -> None: ...

    def ledger_failed(self, error: BaseException, what: str) -> None: ...

    def break_off(self, error: Exception) -> None: ...


class Commits:
    """dirty: chunks that have changed; whoever changes one adds it. busy: a commit is under way."""

    def __init__(
        self,
        owner: Committing,
        writer: Asked,
        stocks: Stocks,
        outcomes: Outcomes,
        details: DetailBuffer,
        notices: Notices,
        progress: Callable[[], dict[str, Any]],
    ) -> None:
        self._owner, self._writer, self._stocks = owner, writer, stocks
        self._outcomes, self._details, self._notices, self._progress = outcomes, details, notices, progress
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._serial = 0
        self._enough = min(stocks.most_claimed, MOST_DETAILS)
        self.dirty: set[Work] = set()
        self.busy = False

    def anything(self) -> bool:
        """Whether outcomes wait for a commit."""
        return bool(self.dirty) or len(self._details) > 0

    def soon(self, settled: bool = False) -> None:
        """By the timer; at once, with the next claims, if enough was settled."""
        if settled and not self.busy and len(self._details) >= self._enough:
            self.commit(self._owner.claim(beside=True))
        elif self._timer is None:
            self._timer = self._loop.call_later(COMMIT_SECONDS, self._flush)

    @entry
    def _flush(self) -> None:
        self._timer = None
        if not self.busy:
            self.commit(self._owner.claim(beside=True))

    def commit(self, picked: list[Claim] | None = None) -> None:
        """Everything that has changed, and these claims."""
        if self.busy or self._owner.done.done():
            return
        advance = self._collect()
        if advance is None:
            self._owner.look_for_end()
            return
        self.busy = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._writer.submit(advance, lambda error: self._on_commit(error, picked or []))

    def _collect(self) -> Advance | None:
        """Everything that has changed since the last commit."""
        retries, moved = self._outcomes.take_retries(
            self._loop.time(), self._owner.stopping or self._stocks.nothing_to_do()
        )
        self.dirty |= moved
        troubles, news = self._outcomes.take_troubles(), self._notices.take_news()
        if not (self.dirty or troubles or len(self._details) or news):
            return None
        self._serial += 1
        advance = Advance(
            chunks=[work.row() for work in self.dirty],
            details=self._details.flush(),
            troubles=troubles,
            retries=retries,
            progress=self._progress(),
            serial=self._serial,
        )
        for retry in retries:
            self._owner.expect(retry.route)
        for work in self.dirty:
            if work.finished():
                self._stocks.drop(work)
        self.dirty.clear()
        return advance

    @entry
    def _on_commit(self, error: BaseException | None, claimed: list[Claim]) -> None:
        self.busy = False
        if error is not None:
            self._owner.ledger_failed(error, "written")
            return
        self._owner.committed(claimed)
        if self.anything():
            self.soon()
        self._owner.look_for_end()

    def break_off(self, error: Exception) -> None:
        self._owner.break_off(error)

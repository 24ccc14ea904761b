"""What ends a run at once, whoever runs it: a ledger that cannot be written or read, and an error that is a bug."""

from __future__ import annotations

import asyncio

from bulkmail.errors import BulkmailError, JournalError


class Ending:
    """stopping  nothing more is begun; done: None if all is well, or the error that stopped it; an exception: a bug."""

    stopping: bool
    done: asyncio.Future[BulkmailError | None]

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

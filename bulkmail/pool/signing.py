"""Messages of a Mailer that are signed on their way, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bulkmail.errors import JOB, BulkmailError, MessageError

if TYPE_CHECKING:
    from bulkmail.message.dkim import Dkim
    from bulkmail.message.signing import SigningPool

Done = Callable[[bytes, BulkmailError | None], None]


class SigningStage:
    """Signs what is added, and says `done(fields, None)` or `done(b"", error)`, on the loop.

    specs  the Mailer's own signatures: those are made by processes, a few messages at a time. A message with others is
           signed in a thread: they would each need processes of their own.
    """

    def __init__(self, specs: tuple[Dkim, ...]) -> None:
        self._specs = specs
        self._pool: SigningPool | None = None
        self._new: list[tuple[bytes, Done]] = []
        self._tasks: set[asyncio.Future[list[bytes]]] = set()

    def add(self, specs: tuple[Dkim, ...], body: bytes, done: Done) -> None:
        """body: ready for DATA."""
        if specs != self._specs:
            self._watch(asyncio.ensure_future(asyncio.to_thread(_sign, specs, body)), [done])
            return
        if not self._new:
            asyncio.get_running_loop().call_soon(self._submit)  # with whatever else is added in this turn
        self._new.append((body, done))

    def _submit(self) -> None:
        new, self._new = self._new, []
        if not new:
            return
        try:
            if self._pool is None:
                from bulkmail.message.dkim_sign import signer_of
                from bulkmail.message.signing import SigningPool

                self._pool = SigningPool(signer_of(self._specs))
        except MessageError as error:  # the key cannot be used
            for _, done in new:
                done(b"", error)
            return
        for at in range(0, len(new), self._pool.batch):
            self._hand_over(self._pool, new[at : at + self._pool.batch])

    def _hand_over(self, pool: SigningPool, items: list[tuple[bytes, Done]]) -> None:
        try:
            future = pool.submit([body for body, _ in items])
        except MessageError as error:
            self._one_by_one(pool, error, items)
        else:
            self._watch(future, [done for _, done in items], lambda error: self._one_by_one(pool, error, items))

    def _one_by_one(self, pool: SigningPool, error: MessageError, items: list[tuple[bytes, Done]]) -> None:
        """One of these messages cannot be signed; the others can."""
        if len(items) == 1:
            items[0][1](b"", error)
            return
        for item in items:
            self._hand_over(pool, [item])

    def _watch(
        self,
        future: asyncio.Future[list[bytes]],
        asking: Sequence[Done],
        refused: Callable[[MessageError], None] | None = None,
    ) -> None:
        self._tasks.add(future)

        def signed(future: asyncio.Future[list[bytes]]) -> None:
            self._tasks.discard(future)
            if future.cancelled():
                return
            error = future.exception()
            if refused is not None and isinstance(error, MessageError) and error.scope != JOB:
                refused(error)
                return
            if error is not None and not isinstance(error, BulkmailError):
                error = MessageError(f"the message cannot be signed: {error}")
            for place, done in enumerate(asking):
                done(b"" if error is not None else future.result()[place], error)

        future.add_done_callback(signed)

    async def close(self) -> None:
        """What has not been signed is forgotten."""
        self._new = []
        for task in list(self._tasks):
            task.cancel()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.close()


def _sign(specs: tuple[Dkim, ...], body: bytes) -> list[bytes]:
    from bulkmail.message.dkim_sign import signer_of

    return signer_of(specs).sign([body])

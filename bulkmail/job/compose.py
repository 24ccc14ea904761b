"""From claimed positions to transactions: rows read again, messages composed and signed, envelopes made.

A message of each recipient's own is signed on its way: by processes, a few messages at a time, while the event loop
goes on. Whoever is there is claimed; the scheduler counts them as held.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from bulkmail.address import address_bytes
from bulkmail.errors import JOB, RECIPIENT, MessageError
from bulkmail.job.recipients import Source
from bulkmail.job.settle import Work, personal_transactions, shared_transaction
from bulkmail.message.compiled import Compiled, with_fields
from bulkmail.wire.transaction import Transaction

if TYPE_CHECKING:
    from bulkmail.wire.transaction import Body

Places = list[int]
# What the signers made of positions of a chunk: their transactions, or why there are none.
OnSigned = Callable[[Work, Places, list[Transaction], BaseException | None], None]


class Signers(Protocol):
    """What signs beside the loop: message.signing.SigningPool."""

    @property
    def batch(self) -> int:
        """Messages that are handed over at a time."""

    @property
    def ahead(self) -> int:
        """Messages that they should have, so that none of them waits."""

    def submit(self, bodies: list[Body]) -> asyncio.Future[list[bytes]]:
        """Of each message, ready for DATA, the header fields that go before it. raises  MessageError"""


class Composer:
    """compiled: the job's message; source: its recipients; batch: how many share a transaction of a shared one.

    signers    sign what is personal; then compose() has nothing yet, and `on_signed` is called with it, on the loop
    """

    def __init__(self, compiled: Compiled, source: Source, batch: int, signers: Signers | None = None) -> None:
        self.compiled, self.source = compiled, source
        self.per_transaction = batch if compiled.shared else 1
        self.signers = signers if not compiled.shared else None
        self.on_signed: OnSigned | None = None
        self._failures: list[tuple[int, str, MessageError]] = []
        self._shared: tuple[bytes, Body] | None = None
        self._with_signers: set[asyncio.Future[list[bytes]]] = set()

    @property
    def ahead(self) -> int:
        """How many messages the signers should have, so that none of them waits; 0: nothing is signed on its way."""
        return self.signers.ahead if self.signers is not None else 0

    def compose(self, work: Work, places: Places, date: bytes) -> list[Transaction]:
        """Transactions for these positions of a chunk; those that cannot be composed wait in take_failures()."""
        rows = self.source.read([work.offsets[place] for place in places])
        if self.compiled.shared:
            return self._compose_shared(work, places, rows, date)
        composed = self.compiled.compose(rows, [work.numbers[place] for place in places], date)
        if self.signers is not None:
            self._sign(composed, work, places, rows)
            return []
        return self._personal(composed, work, places, rows)

    def _personal(self, composed: list[Any], work: Work, places: Places, rows: list[Any]) -> list[Transaction]:
        transactions, failed = personal_transactions(composed, work, places, self.compiled.eight_bit)
        for index, error in failed:
            self._failures.append((places[index], rows[index]["email"], error))
        return transactions

    def _compose_shared(self, work: Work, places: Places, rows: list[dict[str, Any]], date: bytes) -> list[Transaction]:
        if self._shared is None:
            self._shared = self.compiled.compose_shared(date)
        sender, body = self._shared
        rcpts = [address_bytes(row["email"]) for row in rows]
        size = self.per_transaction
        return [
            shared_transaction(sender, body, rcpts[at : at + size], work, places[at : at + size])
            for at in range(0, len(places), size)
        ]

    def take_failures(self) -> list[tuple[int, str, MessageError]]:
        """(position, address, why) of recipients whose message could not be composed."""
        taken, self._failures = self._failures, []
        return taken

    # -- signing

    def _sign(self, composed: list[Any], work: Work, places: Places, rows: list[Any]) -> None:
        """Hand the messages to the signers, a few at a time; what could not be composed goes along."""
        assert self.signers is not None
        size = self.signers.batch
        for at in range(0, len(composed), size):
            part = slice(at, at + size)
            self._hand_over(composed[part], work, places[part], rows[part])

    def _hand_over(self, items: list[Any], work: Work, places: Places, rows: list[Any]) -> None:
        assert self.signers is not None
        try:
            future = self.signers.submit([item[2] for item in items if type(item) is tuple])
        except MessageError as error:
            self._one_by_one(error, items, work, places, rows)
            return
        self._with_signers.add(future)
        future.add_done_callback(functools.partial(self._signed, items, work, places, rows))

    def _one_by_one(self, error: MessageError, items: list[Any], work: Work, places: Places, rows: list[Any]) -> None:
        """One of these messages cannot be signed, which fails its recipient alone."""
        if len(items) == 1:
            error.scope = RECIPIENT
            items = [error]
            self._hand_over(items, work, places, rows)
            return
        for item, place, row in zip(items, places, rows, strict=True):
            self._hand_over([item], work, [place], [row])

    def abandon(self) -> None:
        """What is being signed is not needed any more: `on_signed` is told of a CancelledError."""
        for future in list(self._with_signers):
            future.cancel()

    def _signed(
        self, items: list[Any], work: Work, places: Places, rows: list[Any], future: asyncio.Future[list[bytes]]
    ) -> None:
        assert self.on_signed is not None
        self._with_signers.discard(future)
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if isinstance(error, MessageError) and error.scope != JOB:
            self._one_by_one(error, items, work, places, rows)
            return
        if error is not None:
            self.on_signed(work, places, [], error)
            return
        fields = iter(future.result())
        signed = [
            (item[0], item[1], with_fields(next(fields), item[2])) if type(item) is tuple else item for item in items
        ]
        self.on_signed(work, places, self._personal(signed, work, places, rows), None)


def split(tx: Transaction, size: int, places: list[int] | None = None) -> list[Transaction]:
    """Transactions of at most `size` recipients for those of a shared message at `places` of `tx` (None: all)."""
    places = list(range(len(tx.rcpts))) if places is None else places
    parts = []
    for at in range(0, len(places), size):
        group = places[at : at + size]
        part = tx.part(group)
        part.tag, part.at, part.positions = tx.tag, tx.at, [tx.positions[place] for place in group]
        parts.append(part)
    return parts

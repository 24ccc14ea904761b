"""From claimed positions to transactions: rows read again from the source, messages composed, envelopes made."""

from __future__ import annotations

from typing import Any

from bulkmail.address import address_bytes
from bulkmail.errors import MessageError
from bulkmail.job.recipients import Source
from bulkmail.job.settle import Work, personal_transactions, shared_transaction
from bulkmail.message.compiled import Compiled
from bulkmail.wire.transaction import Transaction


class Composer:
    """compiled: the job's message; source: its recipients; batch: how many share a transaction of a shared one."""

    def __init__(self, compiled: Compiled, source: Source, batch: int) -> None:
        self.compiled, self.source = compiled, source
        self.per_transaction = batch if compiled.shared else 1
        self._failures: list[tuple[int, str, MessageError]] = []
        self._shared: tuple[bytes, bytes] | None = None

    def compose(self, work: Work, places: list[int], date: bytes) -> list[Transaction]:
        """Transactions for these positions of a chunk; those that cannot be composed wait in take_failures()."""
        rows = self.source.read([work.offsets[place] for place in places])
        if self.compiled.shared:
            return self._compose_shared(work, places, rows, date)
        composed = self.compiled.compose(rows, [work.numbers[place] for place in places], date)
        transactions, failed = personal_transactions(composed, work, places)
        for index, error in failed:
            self._failures.append((places[index], rows[index]["email"], error))
        return transactions

    def _compose_shared(
        self, work: Work, places: list[int], rows: list[dict[str, Any]], date: bytes
    ) -> list[Transaction]:
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

"""From claimed positions to transactions: rows read again, messages composed and signed, envelopes made.

A message of each recipient's own is signed on its way: by processes, a few messages at a time, while the event loop
goes on. Whoever is there is claimed; the scheduler counts them as held.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

from bulkmail.errors import JOB, RECIPIENT, MessageError
from bulkmail.job.personal import MAX_SLOTS, Addresses, Personal
from bulkmail.job.seeds import Rows
from bulkmail.job.settle import Work, personal_transactions, shared_transaction, wire_addresses
from bulkmail.job.variants import AnyMessage, Variants
from bulkmail.message.compiled import Compiled, with_fields
from bulkmail.values import mail_date
from bulkmail.wire.transaction import Transaction

if TYPE_CHECKING:
    from bulkmail.job.notifications import Notifications
    from bulkmail.message.dkim_sign import Signer
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

    Recipients of a shared message in several variants are told apart here, so their transactions may be smaller.

    notifications  what transactions ask for of delivery notifications; None: nothing
    signers    sign what is personal; then compose() has nothing yet, and `on_signed` is called with it, on the loop
    signer     signs it here and now, in place of signers
    failures   what take_failures() will give
    """

    def __init__(
        self,
        compiled: AnyMessage,
        source: Rows,
        batch: int,
        signers: Signers | None = None,
        notifications: Notifications | None = None,
        *,
        signer: Signer | None = None,
    ) -> None:
        self.compiled, self.source = compiled, source
        self.per_transaction = batch if compiled.shared else 1
        self.signers = signers if not compiled.shared else None
        self._signer = signer if not compiled.shared else None
        self.on_signed: OnSigned | None = None
        self.failures: list[tuple[int, str, MessageError]] = []
        self._shared: dict[Compiled, tuple[bytes, Body]] = {}
        self._notifications = notifications
        self._personally, self._addresses = self._straight()
        self._with_signers: set[asyncio.Future[list[bytes]]] = set()

    def _straight(self) -> tuple[Personal | None, Addresses | None]:
        """The short way from rows to transactions, where nothing else is to be done with either."""
        message = self.compiled
        if not isinstance(message, Compiled) or self._notifications is not None:
            return None, None
        short = message.plain and len(message.slots) <= MAX_SLOTS and self.signers is None and self._signer is None
        if not (message.shared or short) or (window := self.source.window()) is None:
            return None, None
        if message.shared:
            return None, Addresses(self.source, window)
        return Personal(message, self.source, window), None

    @property
    def ahead(self) -> int:
        """How many messages the signers should have, so that none of them waits; 0: nothing is signed on its way."""
        return self.signers.ahead if self.signers is not None else 0

    def compose(self, work: Work, places: Places, date: bytes) -> list[Transaction]:
        """Transactions for these positions of a chunk; those that cannot be composed wait in take_failures()."""
        if self._personally is not None:
            transactions, failed = self._personally.make(work, places, date)
            self.failures += failed
            return transactions
        if self._addresses is not None:
            return self._to_all(cast(Compiled, self.compiled), work, places, self._addresses.read(work, places), date)
        rows = self.source.read([work.offsets[place] for place in places])
        if self.compiled.shared:
            return self._compose_shared(work, places, rows, date)
        composed = self.compiled.compose(rows, [work.numbers[place] for place in places], date)
        if self.signers is not None:
            self._sign(composed, work, places, rows)
            return []
        if self._signer is not None:
            composed = [_signed_here(self._signer, item) for item in composed]
        return self._personal(composed, work, places, rows)

    def _personal(self, composed: list[Any], work: Work, places: Places, rows: list[Any]) -> list[Transaction]:
        transactions, failed = personal_transactions(composed, work, places, self.compiled.eight_bit)
        for index, error in failed:
            self.failures.append((places[index], rows[index]["email"], error))
        self._ask(transactions, work, places, rows)
        return transactions

    def _ask(self, transactions: list[Transaction], work: Work, places: Places, rows: list[Any]) -> None:
        if self._notifications is not None:
            addresses = {place: row["email"] for place, row in zip(places, rows, strict=True)}
            self._notifications.add(transactions, work, addresses)

    def _compose_shared(self, work: Work, places: Places, rows: list[dict[str, Any]], date: bytes) -> list[Transaction]:
        made: list[Transaction] = []
        for message, mine, rcpts in self._copies(work, places, wire_addresses(rows), rows):
            made += self._to_all(message, work, mine, rcpts, date)
        self._ask(made, work, places, rows)
        return made

    def _to_all(
        self, message: Compiled, work: Work, places: Places, rcpts: list[bytes], date: bytes
    ) -> list[Transaction]:
        """One message for those at `places`, whose addresses are `rcpts`."""
        if message not in self._shared:
            self._shared[message] = message.compose_shared(date)
        sender, body = self._shared[message]
        size = self.per_transaction
        return [
            shared_transaction(sender, body, rcpts[at : at + size], work, places[at : at + size])
            for at in range(0, len(places), size)
        ]

    def _copies(
        self, work: Work, places: Places, rcpts: list[bytes], rows: list[dict[str, Any]]
    ) -> Iterator[tuple[Compiled, Places, list[bytes]]]:
        """Each shared message, and which of these positions it is for."""
        if not isinstance(self.compiled, Variants):
            yield self.compiled, places, rcpts
            return
        for message, mine in self.compiled.split(rows, [work.numbers[place] for place in places]):
            yield message, [places[i] for i in mine], [rcpts[i] for i in mine]

    def take_failures(self) -> list[tuple[int, str, MessageError]]:
        """(position, address, why) of recipients whose message could not be composed."""
        taken, self.failures = self.failures, []
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


def _signed_here(signer: Signer, item: Any) -> Any:
    """One composed message with its signatures; why not, in its place, for one that cannot be signed."""
    if type(item) is not tuple:
        return item
    sender, rcpt, body = item
    try:
        return sender, rcpt, with_fields(signer.signed(signer.prepare(body)), body)
    except MessageError as error:
        error.scope = RECIPIENT
        return error


@functools.lru_cache(maxsize=1)
def date_field(seconds: int) -> bytes:
    """The value of Date (RFC 5322 section 3.6.1), which hundreds of messages share."""
    return mail_date(seconds).encode()


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

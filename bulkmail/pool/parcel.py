"""One message of a Mailer, whatever it is: checked, composed, and the transactions that carry it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bulkmail.errors import BulkmailError, EnvelopeRefused, MessageError
from bulkmail.pool.posting import MAX_TRIES, Stream, Ticket
from bulkmail.smtp.envelope import Envelope, Receipt, Rejected, transaction_flags, wire_content, wire_envelope
from bulkmail.smtp.outcome import message_id
from bulkmail.smtp.parameters import mail_asks, rcpt_parameters
from bulkmail.wire.transaction import Transaction

if TYPE_CHECKING:
    from bulkmail.message.dkim import Dkim
    from bulkmail.message.spec import Access

__all__ = ["MAX_TRIES", "Parcel", "Ticket", "part_of", "refused_receipt", "tear_up"]


class Parcel:
    """A message as it was given, checked and composed.

    content  of it, CRLF; body: ready for DATA
    specs    what it is to be signed by on its way; none if it goes as it is

    raises  MessageError, EnvelopeRefused  what is wrong with it
    """

    def __init__(
        self,
        message: Any,
        envelope: Envelope | None,
        to: list[str] | str | None,
        access: Access,
        dkim: tuple[Dkim, ...],
    ) -> None:
        from bulkmail.message.message import signatures_of, to_wire

        specs = signatures_of(message, dkim)
        # lines are what a signature needs, and what is signed beside the loop
        at_once = bool(specs) and envelope is not None and envelope.body == "binarymime"
        try:
            self.content, sender, rcpts = to_wire(
                message, envelope=envelope is None, access=access, dkim=specs if at_once else ()
            )
        except TypeError as error:
            raise MessageError(str(error)) from error
        if to is not None:
            rcpts = [to] if isinstance(to, str) else list(to)
        if envelope is not None:
            sender, rcpts = envelope.sender, envelope.addresses
        if not rcpts:
            raise EnvelopeRefused("the message has no recipients", permanent=True, scope="message")
        if sender is None:
            raise EnvelopeRefused("the message has no From, Sender or envelope sender", permanent=True, scope="message")
        self.envelope, self.named = envelope, rcpts
        self.body = wire_content(envelope, self.content)
        self.sender, self.addresses = wire_envelope(sender, rcpts)
        self.specs = () if at_once else specs

    def ticket(self, index: int, groups: list[list[int]], finish: Callable[[Receipt], None] | Stream) -> Ticket:
        return Ticket(index, len(groups) or 1, len(self.content), message_id(self.content), finish)

    def transactions(self, ticket: Ticket, groups: list[list[int]], fields: bytes = b"") -> list[Transaction]:
        """One for each group of recipients, or one for all. fields: the signatures, to go before it."""
        body = (fields, self.body) if fields else self.body
        ticket.size += len(fields)
        asks, behind = mail_asks(self.envelope), rcpt_parameters(self.envelope)
        made = []
        for group in groups or [[]]:
            part, named, params = self.addresses, self.named, behind
            if group:
                part, named = [self.addresses[place] for place in group], [self.named[place] for place in group]
                params = [behind[place] for place in group] if behind is not None else None
            flags = transaction_flags(self.envelope, self.content, [self.sender, *part])
            tx = Transaction(self.sender, part, body, flags, ticket, MAX_TRIES, asks, params)
            tx.positions = named
            made.append(tx)
        return made


def part_of(tx: Transaction, places: list[int], tries: int) -> Transaction:
    """One like `tx`, for the recipients at `places`, which may be tried so often."""
    part = tx.part(places)
    part.tag, part.at, part.positions = tx.tag, tries, [tx.positions[place] for place in places]
    return part


def refused_receipt(addresses: list[str], error: BulkmailError) -> Receipt:
    """Of recipients to whom nothing could be sent."""
    return Receipt(
        rejected=[Rejected(address, error.reply, error) for address in addresses], error=error, reply=error.reply
    )


def tear_up(ticket: Ticket, addresses: list[str], error: BulkmailError) -> None:
    """The message is not sent at all, if anybody waits for it."""
    if ticket.parts:
        ticket.parts = 1
        ticket.add(refused_receipt(addresses, error))

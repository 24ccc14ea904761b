"""What a finished transaction means to its caller: an error, a receipt."""

from __future__ import annotations

import logging
from collections.abc import Collection

from bulkmail.errors import RECIPIENT, BulkmailError, EnvelopeRefused, MessageRefused
from bulkmail.smtp.classify import classify, refused
from bulkmail.smtp.envelope import Receipt, Rejected
from bulkmail.smtp.wirelog import LOGGER, log
from bulkmail.url import Endpoint
from bulkmail.wire.header import message_id
from bulkmail.wire.reply import Reply
from bulkmail.wire.transaction import DONE, IN_DOUBT, NOT_TAKEN, Transaction

__all__ = ["fitting", "in_doubt", "message_id", "over_the_limit", "receipt", "refusal"]


def over_the_limit(tx: Transaction) -> list[int]:
    """The recipients that did not fit into this transaction and belong into another one; no attempt was made for them.

    The server said "too many recipients" (452, or 552 as RFC 821 had it) after it had accepted some (RFC 5321 section
    4.5.3.1.10), or its LIMITS say so (RFC 9422), and nothing was sent: then `tx.fits` says how many fit.
    """
    if tx.fits:
        return list(range(len(tx.rcpts)))
    if tx.state == NOT_TAKEN or not tx.rejected or len(tx.rejected) - len(tx.late or ()) == len(tx.rcpts):
        return []
    late = tx.late or ()
    return [place for place, reply in tx.rejected.items() if place not in late and _too_many(reply)]


def fitting(tx: Transaction) -> int:
    """How many recipients the server takes at a time, by what it did to `tx`: see over_the_limit()."""
    return tx.fits or max(1, len(tx.rcpts) - len(tx.rejected or ()) + len(tx.late or ()))


def _too_many(reply: Reply) -> bool:
    # behind recipients that were accepted, a 452 that says no more means this (RFC 5321 section 4.5.3.1.10)
    if reply.code == 452 and not reply.text:
        return True
    meaning = classify(reply, "RCPT")
    return meaning is not None and meaning.kind == "too_many_recipients"


def in_doubt(tx: Transaction, place: int) -> bool:
    """Whether nobody knows what became of this recipient."""
    return tx.state == IN_DOUBT and place >= tx.decided and place not in (tx.rejected or ())


def refusal(tx: Transaction) -> BulkmailError | None:
    """Why the recipients that were not rejected one by one did not get it, or None if they did."""
    if tx.state != DONE:
        assert isinstance(tx.error, BulkmailError)
        return tx.error
    if tx.error is not None:
        assert isinstance(tx.error, BulkmailError)
        return tx.error
    reply = tx.reply
    if reply is None or reply.code < 300:
        return None
    if tx.command == "MAIL":
        return refused(EnvelopeRefused, f"the server refused the sender: {reply}", reply, "MAIL")
    return refused(MessageRefused, f"the server refused the message: {reply}", reply, tx.command)


def receipt(tx: Transaction, addresses: list[str], elsewhere: Collection[int] = ()) -> Receipt:
    """A Receipt with every address accepted or rejected; `error` is set if nobody was accepted.

    elsewhere: places of those who are sent to by another transaction
    `bytes` and `message_id` are left to the caller, who knows the content.
    """
    why = refusal(tx)
    result = Receipt(reply=tx.reply)
    if tx.mail_at:
        envelope_end = tx.data_at if tx.data_at >= tx.mail_at else tx.done_at  # it may have ended before DATA's reply
        result.envelope_seconds = envelope_end - tx.mail_at
        result.data_seconds = tx.done_at - envelope_end
    one_by_one = tx.rejected or {}
    for place, address in enumerate(addresses):
        reply = one_by_one.get(place)
        if place in elsewhere:
            continue
        if reply is not None:
            result.rejected.append(Rejected(address, reply, _refused_one(tx, place, address, reply)))
        elif why is not None and place >= tx.decided:
            result.rejected.append(Rejected(address, why.reply, why))
        else:
            result.accepted.append(address)
    if not result.accepted and result.rejected:
        result.error = why or result.rejected[0].error
        if result.reply is None:
            result.reply = result.error.reply
    label = getattr(tx.via, "label", None)
    if label is not None:
        result.tls, result.egress = label.tls, label.egress
        result.relay = label.endpoint.host
        if LOGGER.isEnabledFor(logging.INFO):
            _record(result, tx, label.endpoint, label.id)
    return result


def _record(result: Receipt, tx: Transaction, endpoint: Endpoint, cid: str) -> None:
    for one in result.rejected:
        phase = one.error.command or tx.command or "MAIL"
        log(logging.INFO, endpoint, cid, phase, "%s: %s", one.address, one.error, reply=one.reply)
    if result.accepted:
        text = "taken for %d of %d: %s"
        log(
            logging.DEBUG,
            endpoint,
            cid,
            "end of data",
            text,
            len(result.accepted),
            len(tx.rcpts),
            tx.reply,
            reply=tx.reply,
        )


def _refused_one(tx: Transaction, place: int, address: str, reply: Reply) -> BulkmailError:
    text = f"the server refused {address}: {reply}"
    if tx.late is not None and place in tx.late:
        return refused(MessageRefused, text, reply, "end of data", message=RECIPIENT)
    return refused(EnvelopeRefused, text, reply, "RCPT")

"""What a finished transaction means to its caller: an error, a receipt."""

from __future__ import annotations

import re

from bulkmail.errors import MESSAGE, BulkmailError, EnvelopeRefused, MessageRefused
from bulkmail.smtp.envelope import Receipt, Rejected
from bulkmail.wire.transaction import DONE, Transaction

HEADER_SEARCHED = 64 * 1024  # bytes of a message that are searched for its Message-ID; no header is longer
HEADER_END = re.compile(rb"\n\r?\n")
MESSAGE_ID = re.compile(rb"\nmessage-id:\s*(<[^<>\r\n]*>)", re.IGNORECASE)


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
        return EnvelopeRefused(f"the server refused the sender: {reply}", reply=reply, command="MAIL", scope=MESSAGE)
    return MessageRefused(f"the server refused the message: {reply}", reply=reply, command=tx.command)


def message_id(content: bytes) -> str | None:
    """The Message-ID that a composed message has, or None."""
    head = b"\n" + content[:HEADER_SEARCHED]
    end = HEADER_END.search(head)
    found = MESSAGE_ID.search(head, 0, end.start() if end else len(head))
    return found[1].decode("ascii", "replace") if found else None


def receipt(tx: Transaction, addresses: list[str]) -> Receipt:
    """A Receipt with every address accepted or rejected; `error` is set if nobody was accepted.

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
        if reply is not None:
            error: BulkmailError = EnvelopeRefused(
                f"the server refused {address}: {reply}", reply=reply, command="RCPT"
            )
            result.rejected.append(Rejected(address, reply, error))
        elif why is not None:
            result.rejected.append(Rejected(address, why.reply, why))
        else:
            result.accepted.append(address)
    if not result.accepted:
        result.error = why or result.rejected[0].error
        if result.reply is None:
            result.reply = result.error.reply
    label = getattr(tx.via, "label", None)
    if label is not None:
        result.tls, result.egress = label.tls, label.egress
        result.relay = label.endpoint.host
    return result

"""May we send from this address? MAIL, and RSET to take it back."""

from __future__ import annotations

from bulkmail.errors import CONNECTION, EnvelopeRefused
from bulkmail.smtp.classify import refused
from bulkmail.smtp.envelope import wire_address
from bulkmail.smtp.session import Session
from bulkmail.wire.reply import Reply


async def try_sender(session: Session, sender: str) -> Reply:
    """The reply to MAIL. sender: an address, or "" for the null sender. Raises EnvelopeRefused."""
    address = wire_address(sender) if sender else b""
    utf8 = b"" if address.isascii() else b" SMTPUTF8"
    if utf8 and "SMTPUTF8" not in session.wire.extensions:
        said = f"the sender {sender} is not ASCII, and the server does not offer SMTPUTF8"
        raise EnvelopeRefused(said, permanent=True, command="MAIL")
    reply = await _answer(session, b"MAIL FROM:<" + address + b">" + utf8, "MAIL")
    if reply.code >= 300:
        raise refused(EnvelopeRefused, f"the server refused the sender <{sender}>: {reply}", reply, "MAIL")
    taken_back = await _answer(session, b"RSET", "RSET")
    if taken_back.code != 250:
        said = f"the server answered RSET with {taken_back}"
        raise EnvelopeRefused(said, reply=taken_back, command="RSET", scope=CONNECTION)
    return reply


async def _answer(session: Session, line: bytes, verb: str) -> Reply:
    reply = await session.call(line + b"\r\n", verb)
    if reply.code == 421:
        raise session.error or session.wire.parting()
    return reply

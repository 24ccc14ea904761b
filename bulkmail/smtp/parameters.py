"""What an envelope asks for, as parameters of MAIL and RCPT.

SIZE, BODY and SMTPUTF8 are not here: they depend on the content, and the wire adds them itself.

    extension      its EHLO parameters        where it is not offered
    DSN            none                       left out: the server then sends its usual notifications (RFC 3461)
    REQUIRETLS     none                       refused (RFC 8689 section 4.2); smtp.open hears the offer under TLS only
    DELIVERBY      the shortest time          refused with mode "return", left out with "notify" (RFC 2852)
    FUTURERELEASE  longest time, last date    refused: the message would go out at once (RFC 4865)
    MT-PRIORITY    a name                     left out: it is a wish (RFC 6710)
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from bulkmail.smtp.envelope import DeliverBy, Dsn, Envelope, Recipient
from bulkmail.smtp.xtext import envelope_id, original_recipient
from bulkmail.wire.extensions import Ask

NO_REQUIRETLS = "require_tls needs REQUIRETLS, which the server does not offer over TLS with a verified certificate"
NO_DELIVERBY = "deliver_by with mode 'return' was asked for and the server does not offer DELIVERBY"
NO_FUTURERELEASE = "{} was asked for and the server does not offer FUTURERELEASE"


def mail_asks(envelope: Envelope | None) -> tuple[Ask, ...] | None:
    """What MAIL asks of the server's extensions, or None."""
    if envelope is None:
        return None
    asks = []
    if envelope.dsn is not None and envelope.dsn != Dsn():
        asks.append(Ask("DSN", _dsn(envelope.dsn)))
    if envelope.require_tls:
        asks.append(Ask("REQUIRETLS", b" REQUIRETLS", NO_REQUIRETLS))
    if envelope.deliver_by is not None:
        asks.append(_deliver_by(envelope.deliver_by))
    if envelope.hold_for is not None:
        asks.append(_hold("hold_for", f" HOLDFOR={envelope.hold_for}", partial(_hold_for_problem, envelope.hold_for)))
    if isinstance(envelope.hold_until, datetime):
        until = envelope.hold_until
        asks.append(_hold("hold_until", f" HOLDUNTIL={_date_time(until)}", partial(_hold_until_problem, until)))
    if envelope.mt_priority is not None:
        asks.append(Ask("MT-PRIORITY", b" MT-PRIORITY=%d" % envelope.mt_priority))
    return tuple(asks) or None


def rcpt_parameters(envelope: Envelope | None) -> list[bytes] | None:
    """What stands behind each RCPT where the server offers DSN, or None if that is nothing."""
    if envelope is None or all(isinstance(recipient, str) for recipient in envelope.recipients):
        return None
    found = [b"" if isinstance(recipient, str) else _recipient(recipient) for recipient in envelope.recipients]
    return found if any(found) else None


def _recipient(recipient: Recipient) -> bytes:
    parameters = b""
    if recipient.notify:
        parameters = b" NOTIFY=" + ",".join(recipient.notify).upper().encode()
    if recipient.orcpt is not None:
        parameters += b" ORCPT=" + original_recipient(recipient.orcpt)
    return parameters


def _dsn(dsn: Dsn) -> bytes:
    parameters = b" RET=" + dsn.ret.upper().encode() if dsn.ret is not None else b""
    if dsn.envid is not None:
        parameters += b" ENVID=" + envelope_id(dsn.envid)
    return parameters


def _deliver_by(by: DeliverBy) -> Ask:
    parameter = f" BY={by.seconds};{'R' if by.mode == 'return' else 'N'}{'T' if by.trace else ''}".encode()
    if by.mode == "notify":
        return Ask("DELIVERBY", parameter)
    return Ask("DELIVERBY", parameter, NO_DELIVERBY, partial(_deliver_by_problem, by.seconds))


def _hold(name: str, parameter: str, problem: Callable[[str], str | None]) -> Ask:
    return Ask("FUTURERELEASE", parameter.encode(), NO_FUTURERELEASE.format(name), problem)


# What a server announces is believed where it can be understood; the rest is left to its reply to MAIL.


def _deliver_by_problem(seconds: float, announced: str) -> str | None:
    """RFC 2852 section 2: a list with commas, whose first item is the least time that mode "return" may ask for."""
    least = _number(announced.split(",")[0].strip())
    if least is not None and seconds < least:
        return f"deliver_by is {seconds} s, the server expects at least {least} s with mode 'return'"
    return None


def _hold_for_problem(seconds: float, announced: str) -> str | None:
    """RFC 4865 section 4: the most seconds, and the last date."""
    most = _number(announced.split()[0]) if announced.split() else None
    if most is not None and seconds > most:
        return f"hold_for is {seconds} s, the server holds messages for at most {most} s"
    return None


def _hold_until_problem(moment: datetime, announced: str) -> str | None:
    words = announced.split()
    try:
        last = datetime.fromisoformat(words[1])
        last = last.replace(tzinfo=UTC) if last.tzinfo is None else last.astimezone(UTC)
    except (IndexError, ValueError, OverflowError):
        return None
    if moment > last:
        return f"hold_until is {_date_time(moment)}, the server holds messages until {_date_time(last)} at the latest"
    return None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _date_time(moment: datetime) -> str:
    """As in RFC 3339 section 5.6, in UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"

"""What a caller says of a message's transport, and what it is told afterwards.

Options are checked when an object is made (ConfigError): they are the program's. Addresses are data, and checked when
they are sent to (EnvelopeRefused, before anything is sent): one that is impossible ends its message and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bulkmail.address import address_bytes, check_address
from bulkmail.errors import BulkmailError, ConfigError, EnvelopeRefused
from bulkmail.net.certificate import Certificate
from bulkmail.records import Record
from bulkmail.smtp.records import Envelope, Receipt
from bulkmail.smtp.xtext import MAX_ENVID, MAX_ORCPT, envelope_id, original_recipient
from bulkmail.wire.body import encode_message
from bulkmail.wire.reply import Reply

__all__ = ["DeliverBy", "Dsn", "Envelope", "Receipt", "Recipient", "Rejected", "ServerInfo"]

MAX_SECONDS = 999_999_999  # nine digits, RFC 2852 section 4 and RFC 4865 section 4
MAX_PRIORITY = 9  # RFC 6710 section 4
BODIES = ("7bit", "8bitmime", "binarymime")
NOTIFICATIONS = frozenset({"never", "success", "failure", "delay"})
POSTMASTER = "postmaster"  # the one recipient without a domain, RFC 5321 section 4.1.1.3


@dataclass(frozen=True, eq=False, repr=False)
class Recipient(Record):
    """A recipient with delivery notifications of its own (RFC 3461 sections 4.1 and 4.2).

    address
    notify   () (the server's way: when it fails), ("never",), or any of "success", "failure", "delay"
    orcpt    the address that notifications name: "rfc822;ann@example.com", "utf-8;...", another registered type, or an
             address alone, which is rfc822, or utf-8 where it is not ASCII (RFC 6533). Given as it is, not encoded.

    Left out, silently, where the server does not offer DSN.
    """

    address: str
    notify: Sequence[str] = ()
    orcpt: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.address, str):
            raise _wrong("address", self.address, "text")
        object.__setattr__(self, "notify", _notifications(self.notify))
        if self.orcpt is not None:
            _check_text("orcpt", self.orcpt, original_recipient, f"an address of at most {MAX_ORCPT} bytes")


@dataclass(frozen=True, eq=False, repr=False)
class Dsn(Record):
    """What delivery notifications of a message hold (RFC 3461 sections 4.3 and 4.4); who gets one: `Recipient.notify`.

    ret     "full" (the whole message), "hdrs" (its header), or None: the server's choice
    envid   1 to 100 printable ASCII characters that come back in each notification

    Left out, silently, where the server does not offer DSN.
    """

    ret: str | None = None
    envid: str | None = None

    def __post_init__(self) -> None:
        if self.ret not in (None, "full", "hdrs"):
            raise _wrong("ret", self.ret, "'full' or 'hdrs'")
        if self.envid is not None:
            _check_text("envid", self.envid, envelope_id, f"1 to {MAX_ENVID} printable ASCII characters")


@dataclass(frozen=True, eq=False, repr=False)
class DeliverBy(Record):
    """By when a message has to be delivered (RFC 2852).

    seconds  from now; with mode "notify" also 0 or less, for what is late already
    mode     "return": then it comes back; refused where the server does not offer DELIVERBY
             "notify": then the sender is told; left out where the server does not offer it
    trace    every relay on the way that does not know DELIVERBY, or takes it on, is reported
    """

    seconds: float
    mode: str = "return"
    trace: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("return", "notify"):
            raise _wrong("mode", self.mode, "'return' or 'notify'")
        lowest = 1 if self.mode == "return" else -MAX_SECONDS
        object.__setattr__(self, "seconds", _whole_seconds("seconds", self.seconds, lowest))
        _check_flag("trace", self.trace)


def checked(envelope: Envelope) -> tuple[tuple[str | Recipient, ...], int | None, datetime | None]:
    """(recipients, hold_for, hold_until) of an envelope that is being made, as it keeps them. Raises ConfigError."""
    if not isinstance(envelope.sender, str):
        raise _wrong("sender", envelope.sender, "an address, or '' for the null sender")
    recipients = _recipients(envelope.recipients)
    if envelope.size is not None and not (_is_int(envelope.size) and envelope.size >= 0):
        raise _wrong("size", envelope.size, "a number of bytes, 0 or more")
    if envelope.body is not None and envelope.body not in BODIES:
        raise _wrong("body", envelope.body, "'7bit', '8bitmime' or 'binarymime'")
    _check_flag("smtputf8", envelope.smtputf8)
    _check_flag("require_tls", envelope.require_tls)
    if not isinstance(envelope.dsn, Dsn | None):
        raise _wrong("dsn", envelope.dsn, "a Dsn")
    if not isinstance(envelope.deliver_by, DeliverBy | None):
        raise _wrong("deliver_by", envelope.deliver_by, "a DeliverBy")
    priority = envelope.mt_priority
    if priority is not None and not (_is_int(priority) and abs(priority) <= MAX_PRIORITY):
        raise _wrong("mt_priority", priority, f"an integer from -{MAX_PRIORITY} to {MAX_PRIORITY}")
    return recipients, *_hold(envelope)


def _hold(envelope: Envelope) -> tuple[int | None, datetime | None]:
    seconds = None if envelope.hold_for is None else _whole_seconds("hold_for", envelope.hold_for, 1)
    if envelope.hold_until is None:
        return seconds, None
    if seconds is not None:
        raise ConfigError("hold_for and hold_until are both given, expected one of them")
    return None, _utc("hold_until", envelope.hold_until)


def _wrong(name: str, found: Any, expected: str) -> ConfigError:
    return ConfigError(f"{name} is {_shown(found)}, expected {expected}")


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")


def _check_text(name: str, value: Any, encode: Callable[[str], bytes], expected: str) -> None:
    if not isinstance(value, str):
        raise _wrong(name, value, expected)
    try:
        encode(value)
    except ValueError as error:
        raise ConfigError(f"{name} is {_shown(value)}: {error}; expected {expected}") from None


def _notifications(value: Any) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else value
    try:
        found = tuple(dict.fromkeys(words))
    except TypeError:
        found = (None,)
    if not NOTIFICATIONS.issuperset(found) or ("never" in found and len(found) > 1):
        raise _wrong("notify", value, "('never',) or some of 'success', 'failure', 'delay'")
    return found


def _recipients(value: Any) -> tuple[str | Recipient, ...]:
    if isinstance(value, str | Recipient):
        return (value,)
    try:
        found = tuple(value)
    except TypeError:
        raise _wrong("recipients", value, "addresses or Recipients") from None
    for place, recipient in enumerate(found):
        if not isinstance(recipient, str | Recipient):
            raise _wrong(f"recipients[{place}]", recipient, "an address or a Recipient")
    return found


def _whole_seconds(name: str, value: float, lowest: int) -> int:
    """Rounded up: nothing is due sooner than was said."""
    try:
        seconds = None if isinstance(value, bool) else math.ceil(value)
    except (TypeError, ValueError, OverflowError):
        seconds = None
    if seconds is None or not lowest <= seconds <= MAX_SECONDS:
        raise _wrong(name, value, f"seconds from {lowest} to {MAX_SECONDS}")
    return seconds


def _utc(name: str, value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if moment.utcoffset() is None:
            raise ValueError
        utc: datetime = moment.astimezone(UTC)
        if utc.microsecond:
            utc = utc.replace(microsecond=0) + timedelta(seconds=1)
    except (AttributeError, ValueError, OverflowError):
        raise _wrong(name, value, "a datetime with a time zone, such as '2030-01-31T08:00:00+01:00'") from None
    return utc


EIGHT_BIT, UTF8, EIGHT_BIT_ONLY, BINARY = 1, 2, 4, 8  # Transaction flags


def transaction_flags(envelope: Envelope | None, content: bytes | None, addresses: Iterable[bytes]) -> int:
    """What a transaction asks of the server. content: None where it is streamed, and so may hold anything."""
    body = envelope.body if envelope is not None else None
    flags = {"8bitmime": EIGHT_BIT | EIGHT_BIT_ONLY, "binarymime": BINARY}.get(body or "", 0)
    if body is None and (content is None or not content.isascii()):
        flags = EIGHT_BIT
    if (envelope is not None and envelope.smtputf8) or not all(address.isascii() for address in addresses):
        flags |= UTF8
    return flags


def wire_content(envelope: Envelope | None, content: bytes) -> bytes:
    """The content as a Transaction takes it: ready for DATA, or with BINARY as it is."""
    return content if envelope is not None and envelope.body == "binarymime" else encode_message(content)


def wire_envelope(sender: str, recipients: Iterable[str]) -> tuple[bytes, list[bytes]]:
    """(sender, recipients) as MAIL and RCPT want them. Raises EnvelopeRefused with the reason for one that is none."""
    return wire_address(sender) if sender else b"", [wire_recipient(address) for address in recipients]


def wire_recipient(address: str) -> bytes:
    """A recipient's address as RCPT wants it: `wire_address`, or "postmaster" alone."""
    if isinstance(address, str) and address.lower() == POSTMASTER:
        return address.encode()
    return wire_address(address)


def wire_address(address: str) -> bytes:
    """An address as MAIL and RCPT want it. Raises EnvelopeRefused with the reason if it is none."""
    try:
        return address_bytes(check_address(address))
    except ValueError as error:
        raise EnvelopeRefused(str(error), permanent=True) from None


@dataclass(frozen=True, eq=False, repr=False)
class Rejected(Record):
    """A recipient that the server refused."""

    address: str
    reply: Reply | None
    error: BulkmailError


@dataclass(frozen=True, eq=False, repr=False)
class ServerInfo(Record):
    """What a server said of itself.

    extensions           EHLO keywords with parameters
    tls                  "TLSv1.3", or None in clear
    auth                 the mechanism that was used, or None
    cipher, certificate  of TLS; given by verify() and Connection.info, None elsewhere
    """

    greeting: str
    extensions: dict[str, str]
    peer: str
    tls: str | None
    auth: str | None
    cipher: str | None = None
    certificate: Certificate | None = None

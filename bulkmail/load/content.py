"""What a load run sends: one message, prepared once, and the recipients of each transaction."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import formatdate

from bulkmail.errors import ConfigError
from bulkmail.smtp.envelope import transaction_flags, wire_address, wire_recipient
from bulkmail.wire.body import encode_message
from bulkmail.wire.transaction import Transaction

SENDER = "bench@example.test"
RECIPIENT = "user{}@example.test"
SUBJECT = b"Subject: A message of a load test\r\n"
MIME = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n"
LINE = b"All work and no play makes a dull test; this line is one of many like it.\r\n"


def sized_message(size: int, sender: str, date: str | None = None) -> bytes:
    """A well-formed message (RFC 5322) of exactly `size` bytes, CRLF line ends, none of its lines begins with a dot.

    It has no Message-ID: servers that throw away what they have seen before would take only the first one.

    date    for its Date field; None: now
    raises  ConfigError  for a size below what the fields take that a message must have
    """
    start = b"From: <" + sender.encode("ascii", "replace") + b">"
    date_field = b"Date: " + (date or formatdate(localtime=True)).encode() + b"\r\n"
    least = len(start) + 2 + len(date_field) + 2
    if size < least:
        raise ConfigError(f"a message of {size} bytes is too small: From, Date and the blank line take {least}")
    fields = b"".join(field for field in (SUBJECT, MIME) if size >= least + len(SUBJECT) + len(MIME))
    rest = size - least - len(fields)
    # a line end takes two bytes, so that a single one has no place in the body
    short = b" " if rest == 1 else b""
    head = start.replace(b" ", b" " + short, 1) + b"\r\n" + date_field + fields + b"\r\n"
    return head + filler(rest - len(short))


def filler(size: int) -> bytes:
    """Lines of text, `size` bytes of them with their line ends; `size` is not 1."""
    lines, rest = divmod(size, len(LINE))
    if rest == 0:
        return LINE * lines
    if rest == 1:  # the last two lines share what there is
        lines, rest = lines - 1, rest + len(LINE)
    text = (LINE[:-2] * 2)[: rest - 2]
    return LINE * lines + text + b"\r\n"


@dataclass(frozen=True)
class Load:
    """The message and the envelopes of a run.

    body   ready for DATA; size: bytes of the content as a server stores it
    rcpts  the recipients' addresses that transactions take in turn, `each` of them at a time
    """

    sender: bytes
    rcpts: tuple[bytes, ...]
    each: int
    body: bytes
    size: int
    flags: int

    def transaction(self, number: int) -> Transaction:
        first = number * self.each
        count = len(self.rcpts)
        return Transaction(
            self.sender, [self.rcpts[(first + place) % count] for place in range(self.each)], self.body, self.flags
        )


def prepare(content: bytes, sender: str, recipients: tuple[str, ...], each: int) -> Load:
    """The load of a message's bytes, whose line ends become CRLF.

    sender      "" is the null sender
    recipients  none: as many as `each` of names of ours
    each        recipients of a transaction
    raises      EnvelopeRefused  for an impossible address
    """
    body = encode_message(content)
    from_bytes = wire_address(sender) if sender else b""
    rcpts = tuple(wire_recipient(to) for to in recipients or map(RECIPIENT.format, range(1, each + 1)))
    stuffed = body.count(b"\r\n..") + body.startswith(b"..")
    size = len(body) - len(b".\r\n") - stuffed
    return Load(from_bytes, rcpts, each, body, size, transaction_flags(None, body, [from_bytes, *rcpts]))

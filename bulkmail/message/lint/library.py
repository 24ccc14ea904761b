"""The lint of what a program has: `Message.lint()` and `lint_message`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from bulkmail.errors import MessageError
from bulkmail.message.finding import Finding
from bulkmail.message.lint import Sample, lint
from bulkmail.message.lint.rule import ERROR
from bulkmail.message.lint.signing import placed, signings
from bulkmail.message.message import Message, to_wire

# The names of Message's arguments where they differ from places.
_ARGUMENTS = {"from": "from_", "": "message", "priority": "headers.Priority"}
# Where to look in a message that is bytes or an EmailMessage.
_FIELDS = {
    "": "message",
    "from": "From",
    "sender": "Sender",
    "reply_to": "Reply-To",
    "to": "To",
    "cc": "Cc",
    "subject": "Subject",
    "date": "Date",
    "message_id": "Message-ID",
    "list_unsubscribe": "List-Unsubscribe",
    "list_id": "List-Id",
    "feedback_id": "Feedback-ID",
    "dkim": "DKIM-Signature",
}


def lint_message(message: Any, *, bulk: bool = True) -> list[Finding]:
    """What standards and big receivers have against a `Message`, an `EmailMessage`, bytes or a str; [] for nothing.

    bulk  False leaves out what is asked of newsletters only

    A message that cannot be composed has one finding, `message`. No network is used.
    """
    sample = _of_message(message, bulk) if isinstance(message, Message) else _of_ready(message, bulk)
    return [sample] if isinstance(sample, Finding) else lint([sample])


def _of_message(message: Message, bulk: bool) -> Sample | Finding:
    try:
        content = message.unsigned_bytes()
        for place, key in placed(message.dkim):
            key.load(place)
        sender, recipients = message.envelope()
    except MessageError as error:
        return _impossible(error)
    return Sample(
        content,
        lambda place: _ARGUMENTS.get(place, place),
        time.time(),
        sender=sender,
        smtputf8=not _ascii(sender, recipients),
        bulk=bulk,
        given=signings(message.dkim),
        attached=[item.spec.name or (item.spec.file.name if item.spec.file else None) for item in message.attachments],
    )


def _of_ready(message: Any, bulk: bool) -> Sample | Finding:
    """Bytes are looked at as they are: to_wire would mend their newlines, or refuse them for what is to be told."""
    sender: str | None = None
    recipients: list[str] = []
    try:
        content, sender, recipients = to_wire(message)
    except MessageError as error:
        if not isinstance(message, (bytes, bytearray, memoryview)):
            return _impossible(error)
    if isinstance(message, (bytes, bytearray, memoryview)):
        content = bytes(message)
    return Sample(
        content,
        lambda place: _FIELDS.get(place, place.removeprefix("headers.")),
        time.time(),
        sender=sender,
        smtputf8=not _ascii(sender, recipients),
        bulk=bulk,
    )


def _impossible(error: MessageError) -> Finding:
    text = str(error)
    place = text.partition(":")[0]
    return Finding("message", ERROR, place if place.isascii() and " " not in place else "message", text)


def _ascii(sender: str | None, recipients: Iterable[str]) -> bool:
    return (sender or "").isascii() and all(map(str.isascii, recipients))

"""Messages that can be told apart, and sending many of them: what tests of the Mailer share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable
from typing import Any

from bulkmail.pool.mailer import Mailer
from bulkmail.smtp.envelope import Envelope, Receipt
from faults.scripted import Fault, Step, hello, serve

WELL = [*hello("PIPELINING", "8BITMIME"), serve()]


def serving(*faults: Fault) -> list[Step]:
    return [*hello("PIPELINING"), serve(*faults)]


def mail(number: int, to: str | None = None) -> tuple[Envelope, bytes]:
    """A message to u<number>@example.test: nothing but its subject."""
    return Envelope("news@example.test", [to or f"u{number}@example.test"]), subject(number)


def subject(number: int) -> bytes:
    return b"Subject: %d\r\n\r\n" % number


def message(number: int, to: str = "ann@example.test") -> bytes:
    """One that says itself who it is from and to."""
    header = f"From: news@example.test\r\nTo: {to}\r\nSubject: {number}\r\nMessage-ID: <{number}@example.test>\r\n"
    return f"{header}\r\nhello\r\n".encode()


async def send_all(mailer: Mailer, count: int) -> list[Any]:
    """Receipt or error of each of `count` messages that are sent at the same time."""
    sending = (mailer.send(content, envelope=envelope) for envelope, content in map(mail, range(count)))
    return await asyncio.gather(*sending, return_exceptions=True)


async def collect(mailer: Mailer, messages: Iterable[Any] | AsyncIterable[Any]) -> list[Receipt]:
    return [receipt async for receipt in mailer.send_many(messages)]


def by_index(receipts: list[Receipt]) -> list[Receipt]:
    ordered = sorted(receipts, key=lambda receipt: receipt.index)
    assert [receipt.index for receipt in ordered] == list(range(len(ordered)))
    return ordered

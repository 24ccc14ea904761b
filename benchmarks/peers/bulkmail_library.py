#!/usr/bin/env python3
"""Our library, on uvloop: one Mailer and ready messages, by `send_many`, or by tasks that each await `send`.

    bulkmail_library.py --host H --port P --connections N --messages M --message FILE [--tasks T] [--ca-file PEM]
                        [--recipients R]

With --recipients R each message of send_many has so many, and M counts recipients. With --tasks T tasks share the
messages, as an application does that sends single mails; without, one stream of them.
The clock it reports runs from before the first connect to the receipt of the last message.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator

from bulkmail import Envelope, Mailer
from bulkmail.net.loop import run

SENDER = "news@example.test"


def envelope(number: int) -> Envelope:
    return Envelope(SENDER, [f"user{number}@example.test"])


def batch(first: int, end: int) -> Envelope:
    return Envelope(SENDER, [f"user{number}@example.test" for number in range(first, end)])


async def stream(mailer: Mailer, message: bytes, count: int, recipients: int) -> int:
    """All of them by send_many(); how many recipients were taken."""

    def mails() -> Iterator[tuple[Envelope, bytes]]:
        for first in range(0, count, recipients):
            one = envelope(first) if recipients == 1 else batch(first, min(first + recipients, count))
            yield one, message

    taken = 0
    async for receipt in mailer.send_many(mails()):
        if receipt.error is not None:
            raise receipt.error
        taken += 1 if recipients == 1 else len(receipt.accepted)
    return taken


async def singles(mailer: Mailer, message: bytes, count: int, tasks: int) -> int:
    """Each task awaits one send() after the other; how many were taken."""

    async def share(numbers: range) -> int:
        for number in numbers:
            await mailer.send(message, envelope=envelope(number))
        return len(numbers)

    return sum(await asyncio.gather(*(share(range(first, count, tasks)) for first in range(tasks))))


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    for name in ("--port", "--connections", "--messages"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--message", required=True)
    parser.add_argument("--tasks", type=int, default=0)
    parser.add_argument("--recipients", type=int, default=1)
    parser.add_argument("--ca-file", help="insist on STARTTLS, and trust this authority")
    arguments = parser.parse_args()
    with open(arguments.message, "rb") as file:
        message = file.read()
    options = {"tls": "require", "ca_file": arguments.ca_file} if arguments.ca_file else {"tls": "never"}
    options |= {"connections": arguments.connections, "messages_per_connection": 0}
    started = time.perf_counter()
    async with Mailer(f"smtp://{arguments.host}:{arguments.port}", **options) as mailer:
        if arguments.tasks:
            taken = await singles(mailer, message, arguments.messages, arguments.tasks)
        else:
            taken = await stream(mailer, message, arguments.messages, arguments.recipients)
        ended = time.perf_counter()
    print(json.dumps({"messages": taken, "seconds": ended - started}))


if __name__ == "__main__":
    run(main())

#!/usr/bin/env python3
"""The aiosmtplib peer, on uvloop: N connections and the ready message to sendmail().

    aiosmtplib_send.py --host H --port P --connections N --messages M --message FILE [--tasks T]

Without --tasks each connection is a task of its own. With it T tasks share the connections through a queue, which is
how applications pool them: the library has no pool.
The clock it reports runs from before the first connect to the reply to the last message.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import aiosmtplib
import uvloop


async def connect(arguments: argparse.Namespace) -> aiosmtplib.SMTP:
    client = aiosmtplib.SMTP(hostname=arguments.host, port=arguments.port, use_tls=False, start_tls=False, timeout=60)
    await client.connect()
    return client


async def send(client: aiosmtplib.SMTP, message: bytes, number: int) -> None:
    await client.sendmail("news@example.test", [f"user{number}@example.test"], message)


async def send_share(arguments: argparse.Namespace, message: bytes, numbers: range) -> float:
    """One connection's share of the messages; returns the time of its last reply."""
    client = await connect(arguments)
    for number in numbers:
        await send(client, message, number)
    ended = time.perf_counter()
    await client.quit()
    return ended


async def send_pooled(arguments: argparse.Namespace, message: bytes, width: int) -> float:
    """Tasks that each take a connection for one message; returns the time of the last reply."""
    free: asyncio.Queue[aiosmtplib.SMTP] = asyncio.Queue()
    clients = await asyncio.gather(*(connect(arguments) for _ in range(width)))
    for client in clients:
        free.put_nowait(client)

    async def share(numbers: range) -> None:
        for number in numbers:
            client = await free.get()
            await send(client, message, number)
            free.put_nowait(client)

    tasks = arguments.tasks
    await asyncio.gather(*(share(range(first, arguments.messages, tasks)) for first in range(tasks)))
    ended = time.perf_counter()
    await asyncio.gather(*(client.quit() for client in clients))
    return ended


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    for name in ("--port", "--connections", "--messages"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--message", required=True)
    parser.add_argument("--tasks", type=int, default=0)
    arguments = parser.parse_args()
    with open(arguments.message, "rb") as file:
        message = file.read()
    width = min(arguments.connections, arguments.messages)
    started = time.perf_counter()
    if arguments.tasks:
        ended = await send_pooled(arguments, message, width)
    else:
        shares = [range(first, arguments.messages, width) for first in range(width)]
        ended = max(await asyncio.gather(*(send_share(arguments, message, share) for share in shares)))
    print(json.dumps({"messages": arguments.messages, "seconds": ended - started}))


if __name__ == "__main__":
    uvloop.run(main())

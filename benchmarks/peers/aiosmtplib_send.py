#!/usr/bin/env python3
"""The aiosmtplib peer, on uvloop: N connections, a task each, the ready message to sendmail().

The clock it reports runs from before the first connect to the reply to the last message.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import aiosmtplib
import uvloop


async def send_share(arguments: argparse.Namespace, message: bytes, numbers: range) -> float:
    """One connection's share of the messages; returns the time of its last reply."""
    client = aiosmtplib.SMTP(hostname=arguments.host, port=arguments.port, use_tls=False, start_tls=False, timeout=60)
    await client.connect()
    for number in numbers:
        await client.sendmail("news@example.test", [f"user{number}@example.test"], message)
    ended = time.perf_counter()
    await client.quit()
    return ended


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    for name in ("--port", "--connections", "--messages"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--message", required=True)
    arguments = parser.parse_args()
    with open(arguments.message, "rb") as file:
        message = file.read()
    width = min(arguments.connections, arguments.messages)
    shares = [range(first, arguments.messages, width) for first in range(width)]
    started = time.perf_counter()
    ended = await asyncio.gather(*(send_share(arguments, message, share) for share in shares))
    print(json.dumps({"messages": arguments.messages, "seconds": max(ended) - started}))


if __name__ == "__main__":
    uvloop.run(main())

#!/usr/bin/env python3
"""What the signing pool makes beside `openssl speed`, on all cores, in turns; and what the event loop feels of it.

    signing.py                  both algorithms, 2 KB and 20 KB, three rounds of 2 seconds: about a minute
    signing.py --rounds 9 --busy 250    the loop also computes: callbacks of 250 us between system calls

A row is a Markdown table's: signatures/s of both, their ratio, and the longest time that the loop was late. `rows()` is
the same for other scripts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bulkmail.message.dkim import Dkim
from bulkmail.message.dkim_sign import Signer
from bulkmail.message.signing import SigningPool
from bulkmail.net.loop import run

GOALS = {"rsa2048": 0.9, "ed25519": 0.6}  # of openssl's signatures/s
LINE = b"<p>The quick brown fox jumps over the lazy dog, and a newsletter goes on for quite a while.</p>\r\n"
HEADER = (
    b"From: News <news@example.com>\r\nTo: Ann <ann%d@example.net>\r\nSubject: Hello Ann\r\n"
    b"Date: Sun, 01 Nov 2026 08:00:00 +0000\r\nMessage-ID: <%d@example.com>\r\nMIME-Version: 1.0\r\n"
    b"List-Unsubscribe: <https://example.com/u/%d>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    b"Content-Type: text/html; charset=utf-8\r\n\r\nHello %d\r\n"
)
WARM_SECONDS = 0.5  # processes start, and are kept busy


@dataclass(frozen=True)
class Row:
    """signatures/s, medians of the rounds; ratio: the median of each round's own; late_ms: the worst of all."""

    algorithm: str
    size: int
    ours: float
    openssl: float
    ratio: float
    late_ms: float
    callbacks: float


def openssl_speed(algorithm: str, seconds: float, processes: int) -> float:
    """Signatures/s of `openssl speed`, all processes together."""
    command = ["openssl", "speed", "-seconds", str(max(1, round(seconds))), "-multi", str(processes), algorithm]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    columns = re.findall(r"[\d.]+", shown.splitlines()[-1].partition(")")[2] or shown.splitlines()[-1])
    return float(columns[-2])


def _signer(algorithm: str) -> Signer:
    key = rsa.generate_private_key(65537, 2048) if algorithm == "rsa2048" else ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return Signer([Dkim("example.com", "s1", key=pem)])


def _compute(seconds: float) -> None:
    """Holds the GIL for as long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def _signing(algorithm: str, size: int, seconds: float, busy: float) -> tuple[float, float, float]:
    """(signatures/s, the longest that a timer was late, callbacks/s); every message differs from the one before."""
    loop, late, done, calls, on = asyncio.get_running_loop(), 0.0, 0, 0, True
    tail = LINE * (size // len(LINE)) + b".\r\n"
    signer = _signer(algorithm)
    bodies = [HEADER % (n, n, n, n) + tail for n in range(256)]

    async def feed(pool: SigningPool) -> None:
        nonlocal done
        place = 0
        while on:
            fields = await pool.sign(bodies[place : place + pool.batch])
            done += len(fields)
            place = (place + pool.batch) % len(bodies)

    async def watch() -> None:
        nonlocal late
        while on:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            late = max(late, loop.time() - due)

    def work() -> None:
        nonlocal calls
        _compute(busy)
        calls += 1
        if on:
            loop.call_soon(work)

    async with SigningPool(signer) as pool:
        feeders = [asyncio.ensure_future(feed(pool)) for _ in range(max(2, pool.ahead // pool.batch))]
        await asyncio.sleep(WARM_SECONDS)
        if busy:
            loop.call_soon(work)
        watcher = asyncio.ensure_future(watch())
        done, calls, late, began = 0, 0, 0.0, time.perf_counter()
        await asyncio.sleep(seconds)
        rate, calls_rate = done / (time.perf_counter() - began), calls / (time.perf_counter() - began)
        on = False
        await asyncio.gather(watcher, *feeders)
    return rate, late, calls_rate


def row(algorithm: str, size: int, rounds: int = 3, seconds: float = 2.0, busy: float = 0.0) -> Row:
    """busy: seconds that the loop's callbacks compute."""
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(openssl_speed(algorithm, seconds, processes))
        ours.append(run(_signing(algorithm, size, seconds, busy)))
    rates = [rate for rate, _, _ in ours]
    ratio = statistics.median(rate / their for rate, their in zip(rates, theirs, strict=True))
    late = max(late for _, late, _ in ours) * 1e3
    calls = statistics.median(calls for _, _, calls in ours)
    return Row(algorithm, size, statistics.median(rates), statistics.median(theirs), ratio, late, calls)


def rows(rounds: int = 3, seconds: float = 2.0, busy: float = 0.0) -> Iterator[Row]:
    for algorithm in GOALS:
        for size in (2048, 20480):
            yield row(algorithm, size, rounds, seconds, busy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--busy", type=float, default=0.0, metavar="US", help="the loop's callbacks compute so long")
    options = parser.parse_args()
    print("| algorithm | bytes | signatures/s | openssl speed | ratio | asked | loop late, ms | loop callbacks/s |")
    print("|---|---|---|---|---|---|---|---|")
    for one in rows(options.rounds, options.seconds, options.busy / 1e6):
        asked = f"≥ {GOALS[one.algorithm]}" if not options.busy else ""
        print(
            f"| {one.algorithm} | {one.size} | {one.ours:,.0f} | {one.openssl:,.0f} | {one.ratio:.2f} | {asked} "
            f"| {one.late_ms:.1f} | {one.callbacks:,.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

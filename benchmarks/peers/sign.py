#!/usr/bin/env python3
"""Signing on all cores: messages composed and signed a second, by the signatures a second of `openssl speed`.

    sign.py [--rounds 3] [--seconds 5]

"signed" is the `SigningPool` that a job signs with, on an event loop that composes a message of 2 KB for each; the
clock starts when its processes have. "sent" is a whole job, `bulkmail send` to smtp-sink, by its own clock, journal and
start of the processes included. openssl signs one block of a few bytes again and again, on as many cores, and does
nothing else. They take turns: the sink aside, each has the machine for itself.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import compose
from bulkmail_send import HEADERS, send_command
from children import environment, measure, running
from clients import has_workers
from keys import ED25519, RSA, write_key
from messages import write_job
from recorder import HOST, free_port, sink_command, wait_for
from results import Figures
from servers import find
from tables import row, verdict

SIGNED, SENT, OPENSSL = "signed", "sent", "openssl"
KEYS = (RSA, ED25519)
TITLES = {RSA: "RSA-2048", ED25519: "Ed25519"}
LEAST = {RSA: 0.90, ED25519: 0.60}
SIZE = 2048
DOMAIN = "example.test"
# Messages in hand: more than the processes of a few dozen cores want at once.
FEEDERS, BATCH = 32, 64
CONNECTIONS = 20
WARM_SECONDS = 1.0
DEADLINE = 120.0
CORES = len(os.sched_getaffinity(0))


# -- ours


def check(signer: Any, body: bytes, algorithm: str) -> None:
    """Ends the run if the signature does not verify with the public key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, utils

    (unsigned,) = signer.prepare(body)
    field = signer.signed([unsigned])
    signature = base64.b64decode(re.sub(rb"\s", b"", field.rpartition(b" b=")[2]))
    key = serialization.load_der_private_key(signer.keys[0].der, None)
    public: Any = key.public_key()
    if algorithm == RSA:
        public.verify(signature, unsigned.data, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
    else:
        public.verify(signature, unsigned.data)


async def sign(folder: Path, algorithm: str, seconds: float) -> dict[str, float]:
    from bulkmail.message.dkim import Dkim
    from bulkmail.message.dkim_sign import Signer
    from bulkmail.message.signing import SigningPool

    job = json.loads((folder / "job.json").read_text())
    rows = job["recipients"]
    make = compose.bulkmail(job)
    signer = Signer([Dkim(DOMAIN, "s1", key_file=folder / f"{algorithm}.pem")])
    check(signer, make(rows[:1])[0], algorithm)
    done = 0
    until = time.perf_counter() + WARM_SECONDS + seconds + DEADLINE

    async def feed(pool: SigningPool) -> None:
        nonlocal done
        while time.perf_counter() < until:
            fields = await pool.sign(make(rows[:BATCH]))
            done += sum(field.startswith(b"DKIM-Signature:") for field in fields)

    async with SigningPool(signer) as pool:
        feeders = [asyncio.ensure_future(feed(pool)) for _ in range(FEEDERS)]
        while not done:
            await asyncio.sleep(0.05)
        await asyncio.sleep(WARM_SECONDS)  # all of its processes have started
        before, started = done, time.perf_counter()
        await asyncio.sleep(seconds)
        rate = (done - before) / (time.perf_counter() - started)
        until = 0.0
        await asyncio.gather(*feeders)
    return {"rate": rate}


def ours(folder: Path, algorithm: str, seconds: float) -> float:
    own = [sys.executable, __file__, "--folder", str(folder), "--algorithm", algorithm, "--seconds", str(seconds)]
    done = subprocess.run(own, capture_output=True, text=True, timeout=DEADLINE + seconds, env=environment())
    if done.returncode:
        raise SystemExit(f"signing with {algorithm} failed: {done.stderr[-1000:]}")
    return float(json.loads(done.stdout)["rate"])


def workers() -> list[str]:
    """As many processes as are best, where the command has them."""
    return ["--workers", "auto"] if has_workers() else []


def send(folder: Path, algorithm: str, messages: int, port: int) -> float:
    """Messages a second of a job whose messages are signed."""
    key = {"domain": DOMAIN, "selector": "s1", "key_file": str(folder / f"{algorithm}.pem")}
    with tempfile.TemporaryDirectory(dir=folder) as job:
        url = f"smtp://{HOST}:{port}?tls=never"
        path = write_job(
            Path(job), size=SIZE, filler=SIZE - HEADERS, recipients=messages, url=url, connections=CONNECTIONS
        )
        manifest = json.loads(path.read_text())
        manifest["message"]["dkim"] = [key]
        path.write_text(json.dumps(manifest))
        cost = measure([*send_command(path), *workers()], seconds=DEADLINE)
    summary = cost.result()
    if cost.status or summary.get("delivered") != messages:
        raise SystemExit(f"bulkmail send failed: status {cost.status}, {cost.errors[-500:]}")
    return messages / float(str(summary["seconds"]))


# -- openssl


def openssl(algorithm: str, seconds: float) -> float:
    """Signatures a second of all cores, by the clock."""
    program = find("openssl") or "openssl"
    timing = ["-elapsed", "-seconds", str(max(1, round(seconds))), "-multi", str(CORES)]
    done = subprocess.run([program, "speed", *timing, algorithm], capture_output=True, text=True, timeout=DEADLINE)
    found = re.search(r"^(?:rsa 2048 bits|.*Ed25519\)) +\S+s +\S+s +([\d.]+)", done.stdout, re.M)
    if not found:
        raise SystemExit(f"openssl speed {algorithm} says nothing of signatures: {done.stdout[-500:]}")
    return float(found[1])


# -- the comparison


def compare(rounds: int, seconds: float = 5.0, algorithms: Sequence[str] = KEYS) -> tuple[str, dict[str, Figures]]:
    """The table, and of the whole job signed by RSA the percentage of openssl's signatures."""
    figures = {}
    head = ("key", "what", "messages/s", "openssl speed, signatures/s", "÷ openssl", "by round", "asked")
    lines = [f"## Messages of {SIZE // 1024} KB composed and signed, {CORES} cores", "", row(head)]
    lines.append(row(["---", "---", *["---:"] * (len(head) - 2)]))
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as temporary:
        folder, port = Path(temporary), free_port()
        compose.write(folder, SIZE)
        with running(sink_command(port), log=folder / "sink.log"):
            wait_for(port)
            for algorithm in algorithms:
                write_key(algorithm, folder / f"{algorithm}.pem")
                runs = play(folder, algorithm, port, rounds, seconds)
                lines += rows_of(algorithm, runs)
                if algorithm == RSA:
                    figures["dkim"] = percent(runs)
    return "\n".join(lines), figures


def percent(runs: dict[str, list[float]]) -> Figures:
    made_of = f"{median(runs[SENT]):,.0f} by {median(runs[OPENSSL]):,.0f}/s"
    ratios = zip(runs[SENT], runs[OPENSSL], strict=True)
    return Figures([100 * mine / theirs for mine, theirs in ratios], made_of)


def rows_of(algorithm: str, runs: dict[str, list[float]]) -> list[str]:
    lines = []
    for what in (SIGNED, SENT):
        ratios = [mine / theirs for mine, theirs in zip(runs[what], runs[OPENSSL], strict=True)]
        cells = [TITLES[algorithm], what, f"{median(runs[what]):,.0f}", f"{median(runs[OPENSSL]):,.0f}"]
        cells += [f"{median(ratios):.2f}", ", ".join(f"{ratio:.2f}" for ratio in ratios)]
        cells.append(f"≥ {LEAST[algorithm]:.2f}: {verdict(median(ratios) >= LEAST[algorithm])}")
        lines.append(row(cells))
    return lines


def play(folder: Path, algorithm: str, port: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    messages = max(1000, round(openssl(algorithm, 1.0) * seconds))
    ways = {
        SIGNED: lambda: ours(folder, algorithm, seconds),
        SENT: lambda: send(folder, algorithm, messages, port),
        OPENSSL: lambda: openssl(algorithm, seconds),
    }
    runs: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        turn = number % len(ways)
        for name in [*ways][turn:] + [*ways][:turn]:
            runs[name].append(ways[name]())
            said = f"{algorithm} {name} {runs[name][-1]:,.0f}"
            print(f"sign      {number + 1}/{rounds} {said}", file=sys.stderr, flush=True)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    # what it runs itself with
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--algorithm", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        from bulkmail.net.loop import run

        print(json.dumps(run(sign(arguments.folder, arguments.algorithm, arguments.seconds))))
    else:
        print(compare(arguments.rounds, arguments.seconds)[0])


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Signing on all cores: messages composed and signed a second, by the signatures a second of `openssl speed`.

    sign.py [--rounds 3] [--seconds 5]

Ours is the `SigningPool` that a job signs with, on an event loop that composes a message of 2 KB for each signature;
the clock starts when every process of it has signed. openssl signs one block of a few bytes again and again, on as many
cores, and does nothing else. They take turns, and each has the machine for itself.
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
from pathlib import Path
from statistics import median
from typing import Any

import compose
from servers import find
from tables import row

RSA, ED25519 = "rsa2048", "ed25519"
TITLES = {RSA: "RSA-2048", ED25519: "Ed25519"}
LEAST = {RSA: 0.90, ED25519: 0.60}
SIZE = 2048
DOMAIN = "example.test"
# Messages in hand: more than the processes of a few dozen cores want at once.
FEEDERS, BATCH = 32, 64
WARM_SECONDS = 1.0
DEADLINE = 120.0
CORES = len(os.sched_getaffinity(0))


def write_key(algorithm: str, path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    key = rsa.generate_private_key(65537, 2048) if algorithm == RSA else ed25519.Ed25519PrivateKey.generate()
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))


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
    done = subprocess.run(own, capture_output=True, text=True, timeout=DEADLINE + seconds)
    if done.returncode:
        raise SystemExit(f"signing with {algorithm} failed: {done.stderr[-1000:]}")
    return float(json.loads(done.stdout)["rate"])


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


def compare(rounds: int, seconds: float = 5.0) -> str:
    head = ("key", "messages/s", "openssl speed, signatures/s", "÷ openssl", "by round", "asked")
    lines = [f"## Messages of {SIZE // 1024} KB composed and signed, {CORES} cores", "", row(head)]
    lines.append(row(["---", *["---:"] * (len(head) - 1)]))
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as temporary:
        folder = Path(temporary)
        compose.write(folder, SIZE)
        for algorithm, title in TITLES.items():
            write_key(algorithm, folder / f"{algorithm}.pem")
            runs = play(folder, algorithm, rounds, seconds)
            ratios = [mine / theirs for mine, theirs in runs]
            cells = [title, *(f"{median(side):,.0f}" for side in zip(*runs, strict=True))]
            cells += [f"{median(ratios):.2f}", ", ".join(f"{ratio:.2f}" for ratio in ratios)]
            lines.append(row([*cells, f"≥ {LEAST[algorithm]:.2f}"]))
    return "\n".join(lines)


def play(folder: Path, algorithm: str, rounds: int, seconds: float) -> list[tuple[float, float]]:
    runs = []
    for number in range(rounds):
        if number % 2:
            theirs = openssl(algorithm, seconds)
            mine = ours(folder, algorithm, seconds)
        else:
            mine = ours(folder, algorithm, seconds)
            theirs = openssl(algorithm, seconds)
        runs.append((mine, theirs))
        print(f"sign      {number + 1}/{rounds} {algorithm} {mine:,.0f} {theirs:,.0f}", file=sys.stderr, flush=True)
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
        print(compare(arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()

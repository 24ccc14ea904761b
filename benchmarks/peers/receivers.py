#!/usr/bin/env python3
"""Our sink beside other receiving servers: messages a second and CPU a message.

    receivers.py [--seconds 1.5] [--rounds 3]

20 connections, 2 KB. Server and client have a core each, and every server forgets what it takes. They are fed by
smtp-source, which waits for each reply, and by `bulkmail bench`, which writes what the server allows: with PIPELINING
the next envelope behind a message, with CHUNKING (ours alone has it) many messages ahead.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from children import measure, on_core, process_cpu_seconds, running
from messages import SENDER
from recorder import HOST, free_port, sink_command, wait_for
from results import Figures
from servers import HERE, find
from tables import row, spread, verdict

CONNECTIONS, SIZE = 20, 2048
DEADLINE = 300.0
MODULES = Path(os.environ.get("BULKMAIL_SERVERS", "/opt/bulkmail-servers")) / "smtp-server" / "node_modules"
OURS, POSTFIX, AIOSMTPD, NODE = "bulkmail sink", "smtp-sink", "aiosmtpd", "npm smtp-server"
SOURCE, PIPELINING, CHUNKING = "smtp-source", "bulkmail bench, PIPELINING", "bulkmail bench, CHUNKING"


@dataclass(frozen=True)
class Receiver:
    """command  of the port that it listens on; guess: messages a second by feeder, to choose how many it gets"""

    command: Callable[[int], list[str]]
    guess: dict[str, int]


def aiosmtpd(port: int) -> list[str]:
    return [sys.executable, "-m", "aiosmtpd", "-n", "-l", f"{HOST}:{port}", "-c", "aiosmtpd.handlers.Sink"]


RECEIVERS = {
    OURS: Receiver(
        lambda port: [sys.executable, "-m", "bulkmail", "sink", "--listen", f"{HOST}:{port}", "--discard"],
        {SOURCE: 12_000, PIPELINING: 50_000, CHUNKING: 250_000},
    ),
    POSTFIX: Receiver(sink_command, {SOURCE: 10_000, PIPELINING: 30_000}),
    AIOSMTPD: Receiver(aiosmtpd, {SOURCE: 800, PIPELINING: 800}),
    NODE: Receiver(
        lambda port: ["node", str(HERE / "receivers.mjs"), f"{MODULES}/", str(port)],
        {SOURCE: 2000, PIPELINING: 2500},
    ),
}
# (feeder, ours by whom, at least)
GOALS = ((SOURCE, POSTFIX, 0.8), (SOURCE, AIOSMTPD, 10.0), (SOURCE, NODE, 4.0), (PIPELINING, POSTFIX, 1.0))


def feeder(name: str, port: int, messages: int) -> list[str]:
    if name == SOURCE:
        flags = ["-d", "-s", str(CONNECTIONS), "-m", str(messages), "-l", str(SIZE), "-f", SENDER, "-t", SENDER]
        return [find(SOURCE) or SOURCE, *flags, f"{HOST}:{port}"]
    url = f"smtp://{HOST}:{port}?tls=never&chunking={'true' if name == CHUNKING else 'false'}"
    flags = ["--connections", str(CONNECTIONS), "--messages", str(messages), "--size", str(SIZE), "--json"]
    return [sys.executable, "-m", "bulkmail", "bench", url, *flags, "--no-progress"]


@dataclass(frozen=True)
class Fed:
    """One run. cpu_us: the server's, a message; busy: the server's share of its core."""

    rate: float
    cpu_us: float
    busy: float


def feed(pid: int, port: int, name: str, messages: int) -> Fed:
    before = process_cpu_seconds(pid)
    cost = measure(on_core(-1, feeder(name, port, messages)), seconds=DEADLINE)
    busy = process_cpu_seconds(pid) - before
    taken = cost.result().get("messages", messages)
    if cost.status or taken != messages:
        raise SystemExit(f"{name}: status {cost.status}, {taken} of {messages}: {cost.errors[-500:]}")
    seconds = float(str(cost.result().get("seconds", cost.wall)))
    return Fed(messages / seconds, busy / messages * 1e6, busy / seconds)


def unavailable(name: str) -> str | None:
    if name == POSTFIX and not find("smtp-sink"):
        return "Postfix is not installed"
    if name == NODE and not (find("node") and MODULES.exists()):
        return "node or its module smtp-server is not installed"
    if name == AIOSMTPD:
        from importlib.util import find_spec

        return None if find_spec("aiosmtpd") else "aiosmtpd is not installed"
    return None


Runs = dict[tuple[str, str], list[Fed]]  # by receiver and feeder


def play(names: list[str], seconds: float, rounds: int) -> Runs:
    """Each round starts every server once, in an order that rotates, and feeds it by everybody."""
    runs: Runs = {}
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as folder:
        for number in range(rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                receiver, port = RECEIVERS[name], free_port()
                with running(on_core(0, receiver.command(port)), log=Path(folder) / "server.log") as child:
                    wait_for(port)
                    for by, guess in receiver.guess.items():
                        fed = feed(child.pid, port, by, max(200, round(guess * seconds)))
                        runs.setdefault((name, by), []).append(fed)
                        print(f"receivers {number + 1}/{rounds} {name}, {by}: {fed}", file=sys.stderr, flush=True)
    return runs


def table(runs: Runs) -> list[str]:
    head = (
        "server",
        "fed by",
        "messages/s",
        "÷ smtp-sink",
        "its CPU µs/message",
        "÷ smtp-sink",
        "spread",
        "its core busy",
    )
    lines = [row(head), row(["---", "---", *["---:"] * (len(head) - 2)])]
    for (name, by), its in sorted(runs.items(), key=lambda item: (item[0][1] != SOURCE, item[0][1])):
        base = runs.get((POSTFIX, by))
        rate, cpu = median(fed.rate for fed in its), median(fed.cpu_us for fed in its)
        ratios = ["", ""]
        if base:
            ratios = [
                f"{rate / median(fed.rate for fed in base):.2f}",
                f"{cpu / median(fed.cpu_us for fed in base):.2f}",
            ]
        cells = [name, by, f"{rate:,.0f}", ratios[0], f"{cpu:.1f}", ratios[1], spread([fed.rate for fed in its])]
        lines.append(row([*cells, f"{median(fed.busy for fed in its):.0%}"]))
    return lines


def goals(runs: Runs) -> list[str]:
    lines = []
    for by, other, least in GOALS:
        ours, theirs = runs.get((OURS, by)), runs.get((other, by))
        title = f"- {OURS} ÷ {other}, messages/s fed by {by}:"
        if not ours or not theirs:
            lines.append(f"{title} not measured (asked: at least {least:g})")
            continue
        ratio = median(fed.rate for fed in ours) / median(fed.rate for fed in theirs)
        cpu = median(fed.cpu_us for fed in theirs) / median(fed.cpu_us for fed in ours)
        each = ", ".join(f"{one.rate / two.rate:.2f}" for one, two in zip(ours, theirs, strict=True))
        lines.append(
            f"{title} {ratio:.2f}, asked at least {least:g}: {verdict(ratio >= least)} (by round: {each}; "
            f"by the CPU of a message, which is what counts where the client is the slower one: {cpu:.2f})"
        )
    return lines


def by_postfix(runs: Runs) -> dict[str, Figures]:
    """Messages a second of our sink by those of smtp-sink, both fed by us."""
    ours, theirs = (runs.get((name, PIPELINING), []) for name in (OURS, POSTFIX))
    if not ours or not theirs:
        return {}
    made_of = f"{median(fed.rate for fed in ours):,.0f} by {median(fed.rate for fed in theirs):,.0f}/s"
    return {"sink": Figures([one.rate / two.rate for one, two in zip(ours, theirs, strict=True)], made_of)}


def compare(seconds: float, rounds: int) -> tuple[str, dict[str, Figures]]:
    """The table of all servers that there are here and what was asked of ours; the figure of the table of goals."""
    if not find(SOURCE):
        raise SystemExit("Postfix's smtp-source is not installed")
    missing = {name: why for name in RECEIVERS if (why := unavailable(name))}
    runs = play([name for name in RECEIVERS if name not in missing], seconds, rounds)
    title = f"## Receiving servers: {SIZE // 1024} KB, {CONNECTIONS} connections, a core each for server and client"
    notes = [f"- {name} is left out: {why}" for name, why in missing.items()]
    return "\n".join([title, "", *table(runs), "", *goals(runs), *notes]), by_postfix(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="about how long each run takes")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(compare(arguments.seconds, arguments.rounds)[0])


if __name__ == "__main__":
    main()

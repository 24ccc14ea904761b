#!/usr/bin/env python3
"""Our clients beside other SMTP clients, in turns, against servers on this machine. See ../README.md.

    run.py                                   about ten minutes: every scenario, three rounds
    run.py --effort quick                    some two minutes: one short round, to see that it runs
    run.py --effort full                     five rounds, 200,000 recipients, memory at 100,000 and 1,000,000
    run.py --scenarios 2k-c20 --clients floor,bulkmail --rounds 9

Every client first sends a few messages to a recording sink, and is left out if they are not what they should be.
The tables go to standard output and .bench/last.md, every single run to .bench/runs.jsonl.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import compose
import opening
import receivers
import sign
import sink_crowd
import stream
from children import cpu_seconds, measure
from clients import (
    AIO_SINGLES,
    CLIENTS,
    FLOOR,
    LIBRARY,
    LIBRARY_TLS,
    NODEMAILER,
    OURS,
    OURS_HAPROXY,
    OURS_SOCKS,
    OURS_TLS,
    SINGLES,
    TOOLS,
    Client,
    Load,
    unavailable,
)
from messages import SENDER, message
from recorder import HOST, content, recipients, record, sender
from servers import PEER, SINK, SINK_TLS, Servers, find
from tables import Goal, Run, goal_lines, memory_table, scenario_table

SIZES = {"2k": 2048, "20k": 20480}
RUN_SECONDS = 900.0
PROBE_MESSAGES = 12
STREAM_CHECKED = 32 << 20
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Scenario:
    """server   one of `servers`
    only     the clients that take part; empty: all but the special ones
    goals    what the medians of its rounds have to reach
    times    a run is so many times as long: start-up must be the lesser part where the cost past it is asked for
    rate     messages a second for everyone, 0: as fast as it goes. What a message costs falls with the pace, since more
             of them share a system call; ways of unequal pace are compared at the same one"""

    name: str
    size: int
    connections: int
    rtt_ms: int = 0
    server: str = PEER
    only: tuple[str, ...] = ()
    goals: tuple[Goal, ...] = ()
    times: int = 1
    rate: int = 0

    @property
    def title(self) -> str:
        many = "s" if self.connections > 1 else ""
        line = f"{self.rtt_ms} ms round trip" if self.rtt_ms else "loopback"
        pace = f", {self.rate:,} messages/s" if self.rate else ""
        return f"{self.size // 1024} KB, {self.connections} connection{many}, {line}, {self.server}{pace}"

    def takes(self, client: Client) -> bool:
        return client.name in self.only if self.only else not client.special


FAR = (OURS, LIBRARY, "aiosmtplib on uvloop", NODEMAILER)
TLS = (OURS, OURS_TLS, LIBRARY, LIBRARY_TLS)


def faster(*pairs: tuple[str, str], times: float) -> tuple[Goal, ...]:
    return tuple(Goal(ours, theirs, "messages/s", least=times) for ours, theirs in pairs)


SCENARIOS = [
    *(
        Scenario(f"{size}-{name}", SIZES[size], connections, rtt)
        for name, connections, rtt in (("c20", 20, 0), ("c1", 1, 0), ("rtt50", 20, 50))
        for size in SIZES
    ),
    Scenario("chunk-rtt50", 2048, 20, 50, SINK, FAR, faster((OURS, NODEMAILER), (LIBRARY, NODEMAILER), times=20)),
    Scenario("chunk-rtt100", 2048, 1, 100, SINK, FAR, faster((OURS, NODEMAILER), (LIBRARY, NODEMAILER), times=100)),
    Scenario("singles", 2048, 20, 0, PEER, (FLOOR, SINGLES, AIO_SINGLES), faster((SINGLES, AIO_SINGLES), times=5)),
    Scenario(
        "egress",
        2048,
        20,
        0,
        SINK,
        (OURS, OURS_SOCKS, OURS_HAPROXY),
        tuple(Goal(proxied, OURS, "CPU past start-up", most=1.05) for proxied in (OURS_SOCKS, OURS_HAPROXY)),
        times=8,
        rate=5_000,
    ),
    Scenario(
        "tls",
        2048,
        20,
        0,
        SINK_TLS,
        TLS,
        (Goal(OURS_TLS, OURS, "CPU past start-up", most=2), Goal(LIBRARY_TLS, LIBRARY, "CPU past start-up", most=2)),
        times=3,
    ),
]


@dataclass(frozen=True)
class Effort:
    """seconds    about how long one run lasts, by each client's guess
    whole      messages of the three fastest at 20 connections on loopback, whatever they take: their start-up is part
               of the figure, and so must be the length of a real job"""

    rounds: int
    seconds: float
    whole: dict[int, int]
    scenarios: tuple[str, ...]
    memory: bool = False
    stream_mb: int = 1024


STREAM = "stream"
OPENING = "opening"
COMPOSE = "compose"
SIGN = "sign"
RECEIVERS = "sink"
CROWD = "crowd"
APART = (STREAM, OPENING, COMPOSE, SIGN, RECEIVERS, CROWD)
KNOWN = [*(s.name for s in SCENARIOS), *APART]
NEW = ("chunk-rtt50", "chunk-rtt100", "singles", "tls", "egress", *APART)
EFFORTS = {
    "quick": Effort(1, 0.4, {2048: 20_000, 20480: 8_000}, ("2k-c20", "20k-c20", "2k-rtt50", *NEW), stream_mb=128),
    "normal": Effort(
        3, 1.5, {2048: 200_000, 20480: 50_000}, ("2k-c20", "20k-c20", "2k-c1", "20k-c1", "2k-rtt50", *NEW)
    ),
    "full": Effort(5, 3.0, {2048: 200_000, 20480: 100_000}, tuple(KNOWN), memory=True),
}
WHOLE_JOB = {FLOOR, OURS, "smtp-source"}


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


class Harness:
    """The servers, and the files that the runs need."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.runs: list[dict[str, object]] = []

    def __enter__(self) -> Harness:
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkmail-bench-")))
        self.servers = self.stack.enter_context(Servers(self.folder))
        self.messages = {size: self.folder / f"{size}.eml" for size in SIZES.values()}
        for size, path in self.messages.items():
            path.write_bytes(message(size))
        return self

    def __exit__(self, *_error: object) -> None:
        self.stack.close()

    def once(self, client: Client, scenario: Scenario, messages: int) -> Run | None:
        """One measured run; None, and said why, when it did not do its work."""
        server = self.servers.get(scenario.server)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            load = Load(
                HOST,
                self.servers.port(scenario.server, scenario.rtt_ms),
                min(scenario.connections, messages),
                messages,
                scenario.size,
                self.messages[scenario.size],
                Path(folder),
                server.ca_file,
                self.servers.front(client.front, server.port),
                scenario.rate,
            )
            command = client.command(load)
            busy = cpu_seconds(server.pid)
            cost = measure(command, seconds=RUN_SECONDS)
            busy = cpu_seconds(server.pid) - busy
        result = cost.result()
        seconds = float(str(result.get("seconds", cost.wall)))
        done = result.get("delivered", result.get("messages", messages))
        if cost.status or done != messages or not 0 < seconds <= cost.wall:
            say(f"   {client.name} failed: status {cost.status}, {done} of {messages} messages, {seconds:.2f} s of")
            say(f"   {cost.wall:.2f} s. {cost.errors[-500:]}")
            return None
        run = Run(client.name, messages, seconds, cost.wall, cost.user, cost.system, cost.peak_mb, busy / cost.wall)
        self.runs.append({"scenario": scenario.name, "load1": os.getloadavg()[0], **asdict(run)})
        return run


def wrong(client: Client, size: int, ready: Path, servers: Servers) -> str | None:
    """What is wrong with the messages that a client sends; None when they are right."""
    if reason := unavailable(client):
        return reason
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as folder:

        def command(port: int) -> list[str]:
            front = servers.front(client.front, port)
            return client.command(Load(HOST, port, 3, PROBE_MESSAGES, size, ready, Path(folder), front=front))

        cost, dumped = record(command)
    if cost.status or len(dumped) != PROBE_MESSAGES:
        return f"status {cost.status}, {len(dumped)} of {PROBE_MESSAGES} arrived. {cost.errors.strip()[-300:]}"
    to = [address for mail in dumped for address in recipients(mail)]
    if len(set(to)) != PROBE_MESSAGES or len(to) != PROBE_MESSAGES or {sender(mail) for mail in dumped} != {SENDER}:
        return f"not {PROBE_MESSAGES} recipients, one a message, from {SENDER}: {sorted(to)[:3]}"
    for mail in dumped:
        arrived = content(mail).replace(b"\n", b"\r\n")
        if client.composes:
            number = recipients(mail)[0].split("@")[0].removeprefix("user").encode()
            if abs(len(arrived) - size) > size // 100 or b"r%07d" % int(number) not in arrived:
                return f"{len(arrived)} bytes instead of {size}, or without the recipient's own id"
        elif arrived.rstrip(b"\r\n") != ready.read_bytes().rstrip(b"\r\n"):
            return f"other content than the message it was given ({len(arrived)} bytes)"
    return None


def amount(client: Client, scenario: Scenario, effort: Effort) -> int:
    """How many messages this client gets in one run."""
    if scenario.rtt_ms:
        pace = scenario.connections * 1000 / scenario.rtt_ms / client.round_trips
        if scenario.server != PEER and client.window:
            pace = min(pace * client.window, client.guess[0])
        return scenario.connections * max(2, round(pace * max(2.0, effort.seconds * 3) / scenario.connections))
    if scenario.rate:
        return round(scenario.rate * effort.seconds * scenario.times)
    if client.name in WHOLE_JOB and scenario.connections > 1 and not scenario.only:
        return effort.whole[scenario.size]
    return max(100, round(client.guess[scenario.size > 4096] * effort.seconds * scenario.times))


def play(harness: Harness, scenario: Scenario, clients: list[Client], effort: Effort) -> str:
    """One scenario: a short run each for the cost of starting, then the rounds, whose order rotates; its table."""
    clients = [client for client in clients if scenario.takes(client)]
    short = {client.name: harness.once(client, scenario, scenario.connections) for client in clients}
    runs: dict[str, list[Run]] = {client.name: [] for client in clients}
    for number in range(effort.rounds):
        turn = number % len(clients)
        for client in clients[turn:] + clients[:turn]:
            run = harness.once(client, scenario, amount(client, scenario, effort))
            if run:
                runs[client.name].append(run)
                say(f"{scenario.name:9} {number + 1}/{effort.rounds} {run}")
    return "\n".join([scenario_table(scenario.title, runs, short, FLOOR), *goal_lines(scenario.goals, runs, short)])


def memory(harness: Harness, client: Client) -> str:
    scenario = SCENARIOS[0]
    runs = [harness.once(client, scenario, count) for count in (100_000, 1_000_000)]
    for run in filter(None, runs):
        say(f"memory    {run}")
    return memory_table([run for run in runs if run])


def machine() -> str:
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    now = datetime.datetime.now(datetime.UTC)
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f} before, {now:%Y-%m-%d %H:%M} UTC"
    )


def chosen(names: str, known: list[str], what: str) -> list[str]:
    """The known names that a comma list selects by the letters they hold: "floor" is "C floor"."""
    found = []
    for part in names.split(","):
        matches = [name for name in known if part.lower() in name.lower()]
        if not matches:
            raise SystemExit(f"no {what} is called {part}; there are {', '.join(known)}")
        found += matches
    return list(dict.fromkeys(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effort", choices=EFFORTS, default="normal")
    parser.add_argument("--scenarios", help="comma list of " + ", ".join(KNOWN))
    parser.add_argument("--clients", help="comma list of " + ", ".join(c.name for c in CLIENTS))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--memory", action="store_true", help="peak memory at 100,000 and 1,000,000 recipients")
    arguments = parser.parse_args()
    effort = EFFORTS[arguments.effort]
    if arguments.rounds:
        effort = replace(effort, rounds=arguments.rounds)
    names = effort.scenarios
    if arguments.scenarios:
        names = chosen(arguments.scenarios, KNOWN, "scenario")
    clients = list(CLIENTS)
    if arguments.clients:
        wanted = chosen(arguments.clients, [c.name for c in CLIENTS], "client")
        clients = [c for c in CLIENTS if c.name in wanted]

    notes = []
    with Harness() as harness:
        tables = [
            f"# SMTP clients, in turns\n\n{machine()}; "
            f"{effort.rounds} rounds, medians."
            + (" Short runs of one round: an indication only." if effort.rounds == 1 else "")
        ]
        for size in SIZES.values():
            for client in list(clients):
                problem = wrong(client, size, harness.messages[size], harness.servers)
                say(f"check     {client.name}, {size} bytes: {problem or 'right'}")
                if problem:
                    clients.remove(client)
                    notes.append(f"{client.name} is left out: {problem}")
        for scenario in SCENARIOS:
            if scenario.name in names and clients:
                tables.append(play(harness, scenario, clients, effort))
        if STREAM in names:
            tables.append(stream.compare(effort.stream_mb << 20, STREAM_CHECKED, effort.rounds))
        if OPENING in names and find("microsocks"):
            tables.append(opening.compare(1000, 50, effort.rounds))
        if COMPOSE in names:
            tables.append(compose.compare(effort.rounds))
        if SIGN in names and find("openssl") and find("smtp-sink"):
            tables.append(sign.compare(effort.rounds))
        if RECEIVERS in names:
            tables.append(receivers.compare(effort.seconds, effort.rounds))
        if CROWD in names:
            tables.append(sink_crowd.compare(5000, 1000, effort.rounds, effort.whole[2048]))
        if (effort.memory or arguments.memory) and any(c.name == OURS for c in clients):
            tables.append(memory(harness, next(c for c in clients if c.name == OURS)))
        tables += [f"Note: {note}" for note in notes]
        TOOLS.mkdir(exist_ok=True)
        (TOOLS / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in harness.runs))
    text = "\n\n".join(tables)
    (TOOLS / "last.md").write_text(text + "\n")
    print(text)
    return 1 if any(OURS in note for note in notes) else 0


if __name__ == "__main__":
    sys.exit(main())

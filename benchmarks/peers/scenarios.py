"""What is run: scenarios, the clients that take part in each, and how much of it all."""

from __future__ import annotations

from dataclasses import dataclass

from clients import (
    AIO_SINGLES,
    AIOSMTPLIB,
    FLOOR,
    FLOOR_SHARED,
    FLOOR_TLS,
    LIBRARY,
    LIBRARY_SHARED,
    LIBRARY_TLS,
    NODEMAILER,
    ONE_WORKER,
    OURS,
    OURS_HAPROXY,
    OURS_SOCKS,
    OURS_TLS,
    SHARED,
    SINGLES,
    SMTP_SOURCE,
    TWO_WORKERS,
    Client,
)
from keys import ED25519, RSA
from servers import PEER, SINK, SINK_TLS, SINK_TLS_PLAIN
from tables import Goal

SIZES = {"2k": 2048, "20k": 20480}


@dataclass(frozen=True)
class Scenario:
    """server   one of `servers`
    only     the clients that take part; empty: all but the special ones
    goals    what the medians of its rounds have to reach
    times    a run is so many times as long: start-up must be the lesser part where the cost past it is asked for
    whole    messages of the fast clients, all the same: their start-up is part of the figure, and so must be the
             length of a real job
    rate     messages a second for everyone, 0: as fast as it goes. What a message costs falls with the pace, since more
             of them share a system call; ways of unequal pace are compared at the same one
    unit     what is counted
    floor    the client that the table compares with"""

    name: str
    size: int
    connections: int
    rtt_ms: int = 0
    server: str = PEER
    only: tuple[str, ...] = ()
    goals: tuple[Goal, ...] = ()
    times: float = 1
    whole: int = 0
    rate: int = 0
    unit: str = "message"
    floor: str = FLOOR

    @property
    def title(self) -> str:
        many = "s" if self.connections > 1 else ""
        line = f"{self.rtt_ms} ms round trip" if self.rtt_ms else "loopback"
        pace = f", {self.rate:,} messages/s" if self.rate else ""
        return f"{self.size // 1024} KB, {self.connections} connection{many}, {line}, {self.server}{pace}"

    def takes(self, client: Client) -> bool:
        return client.name in self.only if self.only else not client.special


@dataclass(frozen=True)
class Effort:
    """seconds    about how long one run lasts, by each client's guess
    share      of each scenario's `whole`"""

    rounds: int
    seconds: float
    share: float
    scenarios: tuple[str, ...]
    memory: bool = False
    stream_mb: int = 1024
    keys: tuple[str, ...] = (RSA,)


def amount(client: Client, scenario: Scenario, effort: Effort) -> int:
    """How many messages this client gets in one run."""
    if scenario.rtt_ms:
        pace = scenario.connections * 1000 / scenario.rtt_ms / client.round_trips
        if scenario.server != PEER and client.window:
            pace = min(pace * client.window, client.guess[0])
        seconds = max(2.0, effort.seconds * 1.5) * (scenario.times if client.fast else 1)
        return scenario.connections * max(2, round(pace * seconds / scenario.connections))
    if scenario.rate:
        return round(scenario.rate * effort.seconds * scenario.times)
    if scenario.whole and client.fast:
        return max(scenario.connections, round(scenario.whole * effort.share))
    return max(100, round(client.guess[scenario.size > 4096] * effort.seconds * scenario.times))


def faster(*pairs: tuple[str, str], times: float) -> tuple[Goal, ...]:
    return tuple(Goal(ours, theirs, "messages/s", least=times) for ours, theirs in pairs)


NEAR = (FLOOR, OURS, LIBRARY, SMTP_SOURCE, AIOSMTPLIB, NODEMAILER)
FAR = (OURS, LIBRARY, AIOSMTPLIB, NODEMAILER)
SCENARIOS = [
    Scenario("2k-c20", 2048, 20, whole=1_000_000, times=2),
    Scenario("20k-c20", 20480, 20, whole=200_000),
    Scenario(
        "shared",
        2048,
        20,
        only=(FLOOR_SHARED, SHARED, LIBRARY_SHARED),
        whole=3_000_000,
        unit="recipient",
        floor=FLOOR_SHARED,
    ),
    *(Scenario(f"{size}-c1", SIZES[size], 1, only=NEAR, times=0.5) for size in SIZES),
    Scenario("chunk-c1", 2048, 1, server=SINK, only=(FLOOR, OURS, LIBRARY), times=0.5),
    # the start and QUIT's round trip are an eighth of a second of each run
    Scenario("2k-rtt50", 2048, 20, 50, only=(FLOOR, *FAR), times=10),
    Scenario("20k-rtt50", 20480, 20, 50, only=(FLOOR, *FAR)),
    Scenario("chunk-rtt50", 2048, 20, 50, SINK, FAR, faster((OURS, NODEMAILER), (LIBRARY, NODEMAILER), times=50)),
    Scenario("chunk-rtt100", 2048, 1, 100, SINK, FAR, faster((OURS, NODEMAILER), (LIBRARY, NODEMAILER), times=100)),
    Scenario(
        "tls-floor",
        2048,
        20,
        server=SINK_TLS_PLAIN,
        only=(FLOOR_TLS, OURS_TLS, LIBRARY_TLS),
        whole=500_000,
        floor=FLOOR_TLS,
    ),
    Scenario("workers", 2048, 20, server=SINK_TLS, only=(ONE_WORKER, TWO_WORKERS), whole=120_000),
    Scenario("singles", 2048, 20, only=(FLOOR, SINGLES, AIO_SINGLES), goals=faster((SINGLES, AIO_SINGLES), times=5)),
    Scenario(
        "egress",
        2048,
        20,
        server=SINK,
        only=(OURS, OURS_SOCKS, OURS_HAPROXY),
        goals=tuple(Goal(proxied, OURS, "CPU past start-up", most=1.05) for proxied in (OURS_SOCKS, OURS_HAPROXY)),
        times=4,
        rate=5_000,
    ),
    Scenario(
        "tls",
        2048,
        20,
        server=SINK_TLS,
        only=(OURS, OURS_TLS, LIBRARY, LIBRARY_TLS),
        goals=(
            Goal(OURS_TLS, OURS, "CPU past start-up", most=2),
            Goal(LIBRARY_TLS, LIBRARY, "CPU past start-up", most=2),
        ),
        times=2,
    ),
]

# What is no client in turns with others: programs of their own.
STARTS, SIGN, RECEIVERS, MANY, SCALE = "starts", "sign", "sink", "many", "scale"
STREAM, OPENING, COMPOSE, CROWD = "stream", "opening", "compose", "crowd"
APART = (STARTS, SIGN, RECEIVERS, MANY, SCALE, STREAM, OPENING, COMPOSE, CROWD)
KNOWN = [*(s.name for s in SCENARIOS), *APART]
# What the table of goals is made of.
HEADLINE = (
    *("2k-c20", "20k-c20", "shared", "2k-c1", "chunk-c1", "2k-rtt50", "chunk-rtt50", "tls-floor", "workers"),
    *(STARTS, SIGN, RECEIVERS, MANY),
)
EFFORTS = {
    "quick": Effort(1, 0.4, 0.1, HEADLINE, stream_mb=128),
    "normal": Effort(3, 3.0, 1.0, (*HEADLINE, SCALE)),
    "full": Effort(5, 3.0, 1.0, tuple(KNOWN), memory=True, keys=(RSA, ED25519)),
}
